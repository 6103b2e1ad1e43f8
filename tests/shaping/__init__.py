"""Tests of shaping."""
