"""What people read of a run: text in a terminal, and a page that opens anywhere."""
