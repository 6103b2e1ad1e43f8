"""What is to be measured, in which order and for how long: spec, plan, and what is still left."""
