"""Tests of which wheels hosts get."""
