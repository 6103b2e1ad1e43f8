"""Tests of what executes stages."""
