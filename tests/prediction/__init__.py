"""Predictions, held against slow twins and runs whose truth is known."""
