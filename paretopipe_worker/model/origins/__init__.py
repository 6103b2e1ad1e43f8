"""Origins: the places that models come from, one module each (:mod:`.api` says what each does)."""
