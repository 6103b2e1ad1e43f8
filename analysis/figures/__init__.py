"""What a run looks like on a page: its fronts, its times, its load curves, its backends."""
