"""What runs after a sweep: it makes tables, Pareto fronts and figures from raw records."""
