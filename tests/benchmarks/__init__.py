"""Benchmarks: side by side in one run, since these figures only compare within one.

``python -m tests.benchmarks.NAME`` prints a table, with ``--json`` one JSON document. They
measure and do not judge: the exit status is 0 whether or not a limit is met.
"""
