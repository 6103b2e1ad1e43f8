"""What a run says about where to split, in words."""
