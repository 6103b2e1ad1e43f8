"""A soak: sweeps of the local lab for hours, and what grows, drifts or is left behind meanwhile."""
