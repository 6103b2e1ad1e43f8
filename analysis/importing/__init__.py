"""Measurements that others made with other tools, read and checked."""
