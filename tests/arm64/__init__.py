"""Tests on an emulated arm64 machine, which only `make test-arm64` runs."""
