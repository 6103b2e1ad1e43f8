"""Faults by the hundred: injected into real sweeps, each of which must end or be resumed."""
