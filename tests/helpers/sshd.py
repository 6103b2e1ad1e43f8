"""Hosts for tests that are reached by SSH: a machine of its own each, as far as processes can tell.

Each has namespaces for network, mounts, processes and hostname, and an overlay of this machine's
files as its root: what it writes is gone with it. An ordinary user may log in with a key and may
use sudo. One network card serves both SSH and data, as on a Raspberry Pi. The controller, in a
network namespace too, is on the same network; nothing else is.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from paretopipe_worker.host.daemons import Process
from tests import ROOT
from tests.helpers.namespaces import Namespace, reason_without_namespaces
from tests.helpers.waiting import until

CARD = "eth0"
"""The network card of every host."""

SWITCH = "switch"
"""The bridge in the controller's namespace that joins them all."""

USER = "ada"
USER_ID = 4242
HOME = "/home/Ada Lovelace"
"""Home of the user. What is not quoted on its way to the host breaks on it."""

WORKER_HOME = f"{HOME}/Ada's sweeps"
"""Folder of the worker. (In the home itself Ansible's own temporary folder allows no quote.)"""

BOOT = r"""
read -r init rest </proc/self/stat  # our pid on this machine, while /proc is still the machine's

# Make a root from this machine's files, with writes kept in memory.
mount -t tmpfs tmpfs "$SCRATCH"
mkdir "$SCRATCH/upper" "$SCRATCH/work" "$SCRATCH/root"
cd "$SCRATCH"
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root
cd root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
for fresh in tmp run home; do mount -t tmpfs -o mode=755 tmpfs $fresh; done
chmod 1777 tmp
mkdir run/sshd

# Python and its packages may lie where only root can look, or on another file system.
for path in "$PYTHON_PREFIX" "$PYTHON_BASE_PREFIX" "$WORKER_PREFIX"; do
    mkdir -p ".$path"
    mount --bind "$path" ".$path"
    mount -o remount,bind,ro ".$path"
    while path=$(dirname "$path"); [ "$path" != / ]; do chmod a+x ".$path"; done
done

# The user, who may use sudo as on Raspberry Pi OS.
echo "$USER:x:$USER_ID:$USER_ID::$HOME:/bin/bash" >>etc/passwd
echo "$USER:*:19000:0:99999:7:::" >>etc/shadow
echo "$USER:x:$USER_ID:" >>etc/group
echo "$USER ALL=(ALL) NOPASSWD: ALL" >etc/sudoers.d/$USER
chmod 440 etc/sudoers.d/$USER
mkdir ".$HOME"
chown $USER_ID:$USER_ID ".$HOME"
chmod 700 ".$HOME"

hostname "$NAME"
echo "127.0.0.1 localhost $NAME" >etc/hosts
cp "$KEYS/$NAME" etc/ssh/the_host_key
chmod 600 etc/ssh/the_host_key
cp "$KEYS/user.pub" etc/ssh/authorized_keys

echo $init
# Be process 1 and nothing else: reap what others leave behind.
exec chroot . /bin/sh -c 'while :; do sleep 1000 & wait; done'
"""
"""What makes a host, run in its namespaces as their first process."""

SSHD = (
    *("/usr/sbin/sshd", "-f", "/dev/null", "-o", "HostKey=/etc/ssh/the_host_key"),
    *("-o", "AuthorizedKeysFile=/etc/ssh/authorized_keys", "-o", "PasswordAuthentication=no"),
    *("-o", "PermitRootLogin=no", "-o", "UsePAM=no", "-o", "UseDNS=no", "-o", "PidFile=none"),
    *("-o", "Subsystem=sftp internal-sftp"),
)


@dataclass(frozen=True)
class Task:
    """A process that runs on a host: its pid on this machine, its user and its command line."""

    pid: int
    user_id: int
    command: str


@dataclass(frozen=True)
class Host:
    """One host, up until its first process ends."""

    network: Namespace
    init: int

    @property
    def name(self) -> str:
        """Its name, and that in the inventory."""
        return self.network.name.rpartition("-")[2]

    @property
    def address(self) -> str:
        """Where it is reached, by SSH as by the other stages."""
        return self.network.address

    @property
    def link(self) -> str:
        """What shapes its network card: all that could be left of a session."""
        card = self.network.run("ip", "-d", "link", "show", "dev", CARD).stdout.split()
        segments = card[card.index("gso_max_segs") + 1]
        return self.network.run("tc", "qdisc", "show", "dev", CARD).stdout + segments

    @property
    def tasks(self) -> list[Task]:
        """What runs on it, but its first process and sshd with its sessions."""
        return [task for task in self._processes() if not task.command.startswith("sshd:")]

    def file(self, path: str) -> Path:
        """A file of the host as seen from this machine."""
        return Path(f"/proc/{self.init}/root", path.lstrip("/"))

    def start_sshd(self) -> None:
        """Let the user in."""
        enter = ("nsenter", "--target", str(self.init), "--all", "--root", "--wd")
        address = ("-o", f"ListenAddress={self.address}")
        _run(*enter, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *SSHD, *address)

    def kill_sshd(self) -> None:
        """Cut off all who are in, and let nobody in again; what they started is left alone."""

        def doors() -> list[int]:
            return [task.pid for task in self._processes() if task.command.startswith("sshd:")]

        for pid in doors():
            os.kill(pid, signal.SIGKILL)
        until(lambda: not doors(), f"no sshd on {self.name}")

    def _processes(self) -> Iterator[Task]:
        """Everything that runs on it."""
        own = Path(f"/proc/{self.init}/ns/pid").readlink()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                idle = int(entry.name) == self.init or command == "sleep 1000"
                if (entry / "ns/pid").readlink() == own and command and not idle:
                    yield Task(int(entry.name), entry.stat().st_uid, command)
            except OSError:
                continue  # ended meanwhile


@dataclass(frozen=True)
class Fleet:
    """Hosts, the controller's network namespace, and what Ansible needs to reach them."""

    controller: Namespace
    hosts: tuple[Host, ...]
    inventory: str
    environment: dict[str, str]


def reason_without_sshd() -> str:
    """Why no host with sshd can be made here; empty where one can."""
    if os.geteuid() != 0:
        return "hosts with a root and an sshd of their own need root"
    needed = {"/usr/sbin/sshd": "openssh-server", "sudo": "sudo", "ssh": "openssh-client"}
    missing = [package for command, package in needed.items() if shutil.which(command) is None]
    if missing:
        return f"packages are not installed: {', '.join(missing)}"
    return reason_without_namespaces()


@contextmanager
def fleet(prefix: Path = Path(sys.prefix), **variables: Any) -> Iterator[Fleet]:
    """Bring up the hosts of ``inventory/lab``, and take them down whatever happens.

    Parameters
    ----------
    prefix
        The environment whose Python the worker uses.
    **variables
        Added to those of the inventory's group ``stages``.
    """
    inventory = yaml.safe_load((ROOT / "inventory/lab/hosts.yml").read_text())
    stages = inventory["all"]["children"]["stages"]
    with ExitStack() as stack:
        # Short, since the sockets of SSH lie here: their names may have 107 bytes.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pptest-")))
        names = list(stages["hosts"])
        controller = stack.enter_context(_network(f"{folder.name}-controller", 254))
        stack.callback(_end_all_in, controller)
        _run("ip", "-n", controller.name, "link", "add", "name", SWITCH, "type", "bridge")
        _plug(controller, SWITCH)
        _make_keys(folder, names)
        hosts = [
            stack.enter_context(_host(f"{folder.name}-{name}", number, controller, folder, prefix))
            for number, name in enumerate(names, start=1)
        ]
        for host in hosts:
            host.start_sshd()
            reached = {"ansible_host": host.address, "data_address": host.address}
            stages["hosts"][host.name].update(reached)
        stages["vars"] |= {
            "ansible_user": USER,
            "ansible_ssh_private_key_file": str(folder / "user"),
            "ansible_ssh_common_args": f"-F none -o UserKnownHostsFile={folder}/known_hosts",
            "worker_home": WORKER_HOME,
            "worker_python": str(prefix / "bin" / "python"),
            "worker_governor": "",  # the processors are those of the machine that tests
            **variables,
        }
        # Connections are kept by address, and another test's hosts have the same.
        environment = {"ANSIBLE_SSH_CONTROL_PATH_DIR": str(folder / "connections")}
        yield Fleet(controller, tuple(hosts), yaml.safe_dump(inventory), environment)


@contextmanager
def _network(name: str, number: int) -> Iterator[Namespace]:
    """Make a network namespace whose address, once it has one, ends in `number`."""
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "-n", name, "link", "set", "lo", "up")
        yield Namespace(name, f"10.78.0.{number}", f"fd78::{number}")
    finally:
        _run("ip", "netns", "delete", name)


def _plug(namespace: Namespace, card: str) -> None:
    """Give a namespace its address."""
    inside = ("ip", "-n", namespace.name)
    _run(*inside, "address", "add", f"{namespace.address}/24", "dev", card)
    _run(*inside, "link", "set", card, "up")


def _make_keys(folder: Path, names: list[str]) -> None:
    """Make the user's key and every host's, and the list by which the hosts are known."""
    for name in ("user", *names):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name))
    keys = [(folder / f"{name}.pub").read_text() for name in names]
    known = [f"10.78.0.{number} {key}" for number, key in enumerate(keys, start=1)]
    (folder / "known_hosts").write_text("".join(known))


@contextmanager
def _host(
    name: str, number: int, controller: Namespace, folder: Path, prefix: Path
) -> Iterator[Host]:
    """Make one host, plugged into the controller's switch."""
    with _network(name, number) as network:
        port, peer = f"port{number}", ("peer", "name", CARD, "netns", name)
        _run("ip", "-n", controller.name, "link", "add", port, "type", "veth", *peer)
        _run("ip", "-n", controller.name, "link", "set", port, "master", SWITCH, "up")
        _plug(network, CARD)
        own = name.rpartition("-")[2]
        scratch = folder / f"{own}.scratch"
        scratch.mkdir()
        settings = {
            **{"NAME": own, "SCRATCH": str(scratch), "KEYS": str(folder)},
            **{"USER": USER, "USER_ID": str(USER_ID), "HOME": HOME},
            **{"PYTHON_PREFIX": sys.prefix, "PYTHON_BASE_PREFIX": sys.base_prefix},
            "WORKER_PREFIX": str(prefix),
        }
        spaces = ("--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child")
        with network.entered():
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", *spaces, "sh", "-euc", BOOT],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **settings},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert process.stdout and process.stderr
        with process:
            line = process.stdout.readline()
            assert line, f"{name}: no root could be made: {process.stderr.read()}"
            try:
                yield Host(network, int(line))
            finally:
                # With its first process, all that runs on a host ends.
                os.kill(int(line), signal.SIGKILL)


def _end_all_in(namespace: Namespace) -> None:
    """End what Ansible leaves in the controller's namespace: connections kept for its next run."""
    pids = [int(pid) for pid in _run("ip", "netns", "pids", namespace.name).split()]
    for process in filter(None, map(Process.running, pids)):
        process.end(signal.SIGKILL, 5)


def _run(*command: str) -> str:
    """Run a command on this machine, showing what it says when it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout
