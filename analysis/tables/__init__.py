"""Tables: what a run's measures say of each point, rank, segment, rate and pair of backends."""
