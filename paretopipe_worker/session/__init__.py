"""A session: the stages meet, measure one point after the other, and write what they saw."""
