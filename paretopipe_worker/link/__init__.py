"""The link between stages: what is asked of it, and what a host does to it for a session.

`conditions`, `profiles`, `presets` and `traces` say what is asked; `netem`, `htb` and `tc` turn
that into commands and what they print back; `shaping` applies and restores it, behind ``python -m
paretopipe_worker link`` (`command`); `keeper` undoes it when the lease lapses, runs the `relay`,
and takes the link through a trace (`stepper`); `state`, `counters` and `replay` are what stages
see of it.
"""
