"""Which points a guided sweep measures next, and which it leaves out."""
