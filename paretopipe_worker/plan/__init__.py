"""What is to be measured, in which order and how long: spec, plan, and what is left of it."""
