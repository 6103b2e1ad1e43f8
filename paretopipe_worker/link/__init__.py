"""The link between stages: what is asked of it, and what stages see of it while it is shaped.

`conditions`, `profiles`, `presets`, `traces` and `samples` say what is asked. `state`, `counters`
and `replay` are what a host that shapes its link leaves for the stages to read.
"""
