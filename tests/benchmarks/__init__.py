"""Benchmarks. Each measures its alternatives side by side: figures of two runs do not compare.

``python -m tests.benchmarks.NAME`` prints tables, or with ``--json`` one JSON document. They
measure and do not judge: the exit status is 0 whether or not a target is met.
"""
