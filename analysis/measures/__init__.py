"""Measures of each replicate: one module per kind of measure."""
