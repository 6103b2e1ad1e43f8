"""What a host does to its link: shape it as asked, keep it so for a session, and put it back.

`egress` says what is asked of one host. `tc`, `htb` and `netem` turn that into commands, and
`tc_state` turns what the kernel says back into something that can be compared. `apply` carries it
out and restores it, behind ``python -m paretopipe_worker link`` (`command`). The `keeper` undoes it
when the lease lapses, runs the `relay`, and takes the link through a trace (`stepper`).
"""


class ShapingError(RuntimeError):
    """A link cannot be shaped or restored: interface or command, what is wrong, what is allowed."""
