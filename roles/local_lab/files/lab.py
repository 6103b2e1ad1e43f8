"""Hosts of the local lab: network namespaces of this machine, joined by a bridge.

``up`` leaves a holder behind. This process, in fresh namespaces, has a bridge, one child per host
in namespaces of its own, and a veth pair from each host to the bridge. Nothing has a name outside
these namespaces, so two labs never clash and the machine's own network is never touched. The
namespaces are gone when the holder and the last process inside have ended. ``down`` ends the
holder; it also ends by itself after the ansible-playbook for which the lab was brought up.

Each host gets a script ``DIR/HOST/python`` that enters its namespaces and becomes Python. It is
Ansible's interpreter for that host, so every module of every role runs there.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from paretopipe_worker.host.daemons import Process, locked, read_json, write_json

GRACE_S = 3.0
"""Seconds between asking the processes in the namespaces to end and killing them."""

PREFIX_BITS = {4: 24, 6: 64}
"""Size of the network that the hosts share, by IP version."""

SETTINGS = {
    "kernel/unprivileged_userns_clone": "1",
    "kernel/apparmor_restrict_unprivileged_userns": "0",
    "user/max_user_namespaces": "some",
    "user/max_net_namespaces": "some",
    "user/max_mnt_namespaces": "some",
}
"""Kernel settings that can forbid a user to make namespaces, and the values that allow it."""

ENTER = """\
#!/bin/sh
# Python in the namespaces of {host}, a host of the local lab. Written by roles/local_lab.
if [ "$(readlink /proc/{pid}/ns/net)" != {net} ]; then
    echo "{host}: the local lab is down" >&2
    exit 1
fi
exec nsenter --target {pid} {namespaces} -- {python} "$@"
"""


class LabError(RuntimeError):
    """The lab cannot be brought up: the text says why, and what would help."""


@dataclass(frozen=True)
class State:
    """What ``DIR/state.json`` says of a lab: its holder, its owner, and its network namespaces."""

    holder: Process
    owner: Process
    rootless: bool
    namespaces: dict[str, str]

    @classmethod
    def read(cls, directory: Path) -> State | None:
        """Read the state of the lab in `directory`; None if there is none, or it was taken down."""
        value = read_json(directory / "state.json")
        if value is None:
            return None
        holder, owner = Process(**value["holder"]), Process(**value["owner"])
        return cls(holder, owner, value["rootless"], value["namespaces"])


def up(directory: Path, hosts: dict[str, str], python: str, owner: Process) -> bool:
    """Bring the lab up for `owner`; return whether it was down.

    Parameters
    ----------
    directory
        Folder for the state, the log and each host's interpreter.
    hosts
        Data address of each host.
    python
        The Python that the hosts run.
    owner
        The process after whose end the lab ends too.

    Raises
    ------
    LabError
        When another sweep has the lab, or the kernel does not let us make namespaces.
    """
    directory.mkdir(parents=True, exist_ok=True)
    before = State.read(directory)
    if before is not None and before.holder.alive:
        if before.owner == owner and set(before.namespaces) >= set(hosts):
            return False
        if before.owner != owner and before.owner.alive:
            since = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(before.owner.began_unix_s))
            raise LabError(
                f"the local lab {directory} belongs to another run of Ansible (pid "
                f"{before.owner.pid}, there since {since}). Wait for its end, or end it and "
                "clear up with `ansible-playbook playbooks/restore.yml -i inventory/local`"
            )
    down(directory)
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(locked(directory / "lock", wait=False))
        except BlockingIOError:
            raise LabError(f"another sweep is bringing up the local lab {directory}") from None
        _start_holder(directory, hosts, python, owner, lock)
    return True


def down(directory: Path) -> list[str] | None:
    """End the lab and whatever runs in it.

    Returns
    -------
    Pid and command line of each process that ran on its hosts; None if there is no lab.
    """
    state = State.read(directory)
    if state is None:
        return None
    ended = [f"{pid} {shlex.join(_words(pid))}" for pid in _inside(state)]
    state.holder.end(signal.SIGKILL, 5)
    _clear(state)
    for host in state.namespaces:
        (directory / host / "python").unlink(missing_ok=True)
    (directory / "state.json").unlink(missing_ok=True)
    return ended


def _start_holder(
    directory: Path, hosts: dict[str, str], python: str, owner: Process, lock: int
) -> None:
    """Start the holder, which keeps the lock, and wait until the lab is up."""
    rootless = subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode != 0
    user = ["--user", "--map-root-user"] if rootless else []
    reader, writer = os.pipe()
    command = ["unshare", *user, "--net", "--mount", sys.executable, __file__, "hold"]
    command += ["--dir", str(directory), "--python", python, "--owner", str(owner.pid)]
    command += ["--report", str(writer), *(["--rootless"] if rootless else [])]
    command += [f"--host={host}={address}" for host, address in hosts.items()]
    with (directory / "lab.log").open("w", encoding="utf-8") as log:
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(writer, lock),
            start_new_session=True,
        )
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as report:
        if report.readline() == "up\n":
            return
    said = (directory / "lab.log").read_text(encoding="utf-8").strip()
    raise LabError(_refusal(said) if rootless else f"the local lab could not be made: {said}")


def _refusal(said: str) -> str:
    """Say why an ordinary user gets no lab, with the settings that forbid it."""
    found = []
    for name, allowed in SETTINGS.items():
        path = Path("/proc/sys", name)
        value = path.read_text(encoding="utf-8").strip() if path.exists() else None
        if value is not None and (value == "0" if allowed in ("1", "some") else value != allowed):
            found.append(f"{name.replace('/', '.')} is {value} and must be {allowed}")
    settings = "; ".join(found) or "none of " + ", ".join(n.replace("/", ".") for n in SETTINGS)
    return (
        f"the local lab could not be made without root: {said}. It needs user, mount and network "
        f"namespaces. Settings that forbid these here: {settings}. Change them with sysctl, or "
        "run as root"
    )


def hold(directory: Path, hosts: dict[str, str], python: str, state: State, report: int) -> None:
    """Be the holder: make the hosts, say so, and wait for the owner's end."""
    _run("ip", "link", "add", "name", "bridge", "type", "bridge")
    _run("ip", "link", "set", "bridge", "up")
    for number, (host, address) in enumerate(hosts.items()):
        pid = _make_host(number, address)
        state.namespaces[host] = _namespace(pid)
        _write_interpreter(directory / host / "python", host, pid, python, state)
    write_json(directory / "state.json", asdict(state))
    os.write(report, b"up\n")
    os.close(report)
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(state.owner.pid)
        if state.owner.alive:
            select.select([descriptor], [], [])
    # After Ctrl-C or worse, the processes on the hosts end by their lease, as on real hosts.
    until = time.monotonic() + 120
    while any(_inside(state)) and time.monotonic() < until:
        time.sleep(1)
    _clear(state)


def _make_host(number: int, address: str) -> int:
    """Make one host with `address`, plugged into the bridge; return the pid that keeps it."""
    port = f"port{number}"
    # It needs a fresh /sys, since the machine's shows the machine's own interfaces.
    script = "mount -t sysfs sysfs /sys && echo made && exec sleep infinity"
    keep = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "sh", "-c", script]
    process = subprocess.Popen(keep, stdout=subprocess.PIPE)
    assert process.stdout is not None
    if process.stdout.readline() != b"made\n":
        raise LabError("a host's network and mount namespace could not be made")
    inside = ("nsenter", "--target", str(process.pid), "--net", "--", "ip")
    peer = ("peer", "name", "eth0", "netns", str(process.pid))
    _run("ip", "link", "add", "name", port, "type", "veth", *peer)
    _run("ip", "link", "set", port, "master", "bridge", "up")
    bits = PREFIX_BITS[ipaddress.ip_address(address).version]
    _run(*inside, "link", "set", "lo", "up")
    _run(*inside, "address", "add", f"{address}/{bits}", "dev", "eth0")
    _run(*inside, "link", "set", "eth0", "up")
    return process.pid


def _write_interpreter(path: Path, host: str, pid: int, python: str, state: State) -> None:
    """Write the script that enters a host and becomes Python."""
    user = "--user --preserve-credentials " if state.rootless else ""
    text = ENTER.format(
        host=host,
        pid=pid,
        net=shlex.quote(state.namespaces[host]),
        namespaces=f"{user}--net --mount",
        python=shlex.quote(python),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def _run(*command: str) -> None:
    """Run a command that must succeed; what it prints goes to the log."""
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode != 0:
        raise LabError(f"failed: {shlex.join(command)}")


def _inside(state: State) -> Iterator[int]:
    """Pids of the processes on the lab's hosts, without those that keep the namespaces."""
    namespaces = set(state.namespaces.values())
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(entry.name)
            if _namespace(pid) in namespaces and _parent(pid) != state.holder.pid:
                yield pid


def _clear(state: State) -> None:
    """End the processes on the lab's hosts, by SIGTERM first."""
    for number, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 5.0)):
        found = [process for pid in _inside(state) if (process := Process.running(pid))]
        for process in found:
            process.end(number, 0)
        until = time.monotonic() + patience_s
        while any(process.alive for process in found) and time.monotonic() < until:
            time.sleep(0.05)


def _namespace(pid: int) -> str:
    """Network namespace of a process, as the kernel names it."""
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def _parent(pid: int) -> int:
    """Parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _words(pid: int) -> list[str]:
    """Command line of a process; empty once it has ended."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return line.decode(errors="replace").rstrip("\0").split("\0")


def controller() -> Process:
    """Return the main process of the Ansible that started this command.

    Raises
    ------
    LabError
        When no Ansible did.
    """
    pid = os.getppid()
    while (parent := _parent(pid)) > 0:
        # Ansible's worker is forked without exec, so it has its parent's command line.
        if _words(pid) and _words(pid) == _words(parent):
            process = Process.running(parent)
            assert process is not None
            return process
        pid = parent
    raise LabError("not run by Ansible: give --owner PID")


def main() -> int:
    """Run one command; errors are one text on stderr and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("up", "down", "hold"))
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--owner", type=int, help="pid after whose end the lab ends too")
    parser.add_argument("--rootless", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--report", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--host", action="append", default=[], metavar="NAME=ADDRESS")
    options = parser.parse_args()
    hosts = dict(host.split("=", 1) for host in options.host)
    try:
        if options.command == "down":
            ended = down(options.dir)
            print(json.dumps({"changed": ended is not None, "ended": ended or []}))
            return 0
        owner = Process.running(options.owner) if options.owner else controller()
        if owner is None:
            raise LabError(f"--owner {options.owner}: there is no such process")
        if options.command == "up":
            print(json.dumps({"changed": up(options.dir, hosts, options.python, owner)}))
            return 0
        holder = Process.running(os.getpid())
        assert holder is not None
        state = State(holder, owner, options.rootless, {})
        hold(options.dir, hosts, options.python, state, options.report)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
