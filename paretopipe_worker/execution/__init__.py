"""What executes a stage: one module per runtime and kind of device."""
