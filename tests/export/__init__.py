"""Exported stages: what is written, and where it runs."""
