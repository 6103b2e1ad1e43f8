"""What a host is: system, processor, Python, torch, swap, clock speed. No plan is needed."""

from __future__ import annotations

import re
from collections.abc import Iterator

from paretopipe_worker.fitness.answers import Answer, OfUser
from paretopipe_worker.fitness.findings import Finding
from paretopipe_worker.host.sensors import throttled

PYTHON = (3, 11)
"""The oldest Python that runs the worker."""

KERNEL = (5, 3)
"""The oldest Linux that has pidfd_open(2), by which the worker ends processes."""

_ARCHITECTURES = ("aarch64", "x86_64")
_SET_PYTHON = (
    f"a host needs Python {PYTHON[0]}.{PYTHON[1]} or later: install one, and set "
    "ansible_python_interpreter to it"
)
_SUDO = (
    "links and governors are set as root, so that user needs sudo: without a password, or with the "
    "one given by -K or ansible_become_password"
)
_PASSWORD = re.compile(r"(a password is required|[Mm]issing .* password)")
_MIB = 1 << 20


def access(host: str, answer: Answer) -> Iterator[Finding]:
    """Whether the host can be asked at all, as its user and as root, and has a Python for it."""
    if answer.unreachable is not None:
        yield Finding(host, "reachable", answer.unreachable)
        return
    if answer.sudo_problem is not None:
        said = answer.sudo_problem
        needs = "needs a password: " if _PASSWORD.search(said) else ""
        yield Finding(host, "sudo", f"{needs}{said}; {_SUDO}")
    elif answer.root is not None and answer.root.user_id != 0:
        user = f"what runs as root there runs as user {answer.root.user_id}"
        yield Finding(host, "sudo", f"{user}: ansible_become must not be false; {_SUDO}")
    if answer.system is not None and answer.system != "Linux":
        yield Finding(host, "system", f"a host needs Linux; this one has {answer.system}")
        return
    if answer.python is not None and _version(answer.python) < PYTHON:
        yield Finding(host, "python", f"it is {answer.python}; {_SET_PYTHON}")
    elif answer.python_problem is not None:
        yield Finding(host, "python", f"{answer.python_problem}; {_SET_PYTHON}")
    elif answer.user is None:
        yield Finding(host, "reachable", f"it cannot be asked: {answer.user_problem}")
    elif answer.root is None and answer.sudo_problem is None:
        yield Finding(host, "sudo", f"root cannot be asked: {answer.root_problem}")


def machine(host: str, told: OfUser) -> Iterator[Finding]:
    """System and processor."""
    if told.bits != 64 or told.machine not in _ARCHITECTURES:
        why = (
            f"Python there is for {told.bits} bits ({told.machine}), for which there is no torch: "
            "install the 64-bit system"
            if told.bits != 64
            else f"it is {told.machine}, for which there is no build of torch"
        )
        yield Finding(host, "architecture", f"{why}; allowed: {', '.join(_ARCHITECTURES)}")
    if _version(told.kernel) < KERNEL:
        least = ".".join(map(str, KERNEL))
        yield Finding(
            host, "kernel", f"Linux {told.kernel} has no pidfd_open; allowed: {least} or later"
        )
    works = told.worker is not None and told.worker.torch is not None
    if told.page_bytes > 4096 and not works:
        size = f"{told.page_bytes // 1024} KB"
        yield Finding(
            host,
            "page size",
            f"a page of its memory has {size}: libraries that were built for pages of 4 KB abort "
            "there. Whether torch does shows when it computes for the first time. On a Raspberry "
            "Pi 5, kernel=kernel8.img in config.txt chooses a kernel with pages of 4 KB",
            note=True,
        )


def worker(host: str, told: OfUser) -> Iterator[Finding]:
    """The worker's own Python, where there is one: its version, its packages, and torch."""
    found = told.worker
    if found is None:
        return
    if found.python is not None and found.python[:2] < PYTHON:
        is_ = ".".join(map(str, found.python))
        least = ".".join(map(str, PYTHON))
        yield Finding(host, "python", f"{found.name} is {is_}; allowed: {least} or later")
    elif found.missing:
        yield Finding(
            host,
            "torch" if "torch" in found.missing else "python",
            f"{found.name} lacks: {', '.join(found.missing)}",
        )
    if found.problem is not None:
        yield Finding(host, "torch", found.problem)


def state(host: str, told: OfUser, governor: str) -> Iterator[Finding]:
    """How the host fares: what its swap is, and whether its clock can be held and is free.

    Parameters
    ----------
    governor
        The governor that it shall have; empty to leave it alone.
    """
    for swap in told.swaps:
        if "zram" in swap.name:
            yield Finding(
                host,
                "swap",
                f"{swap.name} is compressed memory ({swap.bytes // _MIB} MiB, of which "
                f"{swap.used_bytes // _MIB} are used): where memory runs short, it costs the "
                "stages' processors time",
                note=True,
            )
    for policy, offered in told.governors.items() if governor else ():
        if offered is not None and governor not in offered:
            yield Finding(
                host,
                "governor",
                f"{policy} has no {governor!r}; allowed as worker_governor: {', '.join(offered)}, "
                "or '' to leave it alone",
            )
    if governor and not told.governors and told.board:
        yield Finding(
            host, "governor", "its kernel offers none, so its clock is not held", note=True
        )
    if told.throttling is not None:
        yield from _throttled(host, told.throttling)


def _throttled(host: str, bits: int) -> Iterator[Finding]:
    """What the firmware of a Raspberry Pi does to the clock, and did."""
    now = throttled(bits, bits) or ()
    earlier = [name for name in throttled(bits >> 16, bits >> 16) or () if name not in now]
    help_ = "look at its power supply and its cooling"
    if now:
        yield Finding(host, "throttled", f"at this moment: {', '.join(now)}; {help_}")
    if earlier:
        said = f"since its last boot: {', '.join(earlier)}; {help_}"
        yield Finding(host, "throttled", said, note=True)


def _version(text: str) -> tuple[int, int]:
    """The first two numbers of a version; zeros where it has none."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)
