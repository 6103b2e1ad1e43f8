"""What runs after a sweep: raw records to tidy tables, Pareto fronts and figures, without torch."""
