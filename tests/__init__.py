"""Tests, in rooms like the code; `helpers` has what they share, `benchmarks` measures speed."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The checkout."""
