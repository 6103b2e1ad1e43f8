"""Figures of a run: its fronts, where its time went, its load curves, and its backends."""
