"""What executes a stage: one implementation for each runtime and device."""
