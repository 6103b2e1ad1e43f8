"""Tables of a run's measures, by point, rank, segment, offered rate and pair of backends."""
