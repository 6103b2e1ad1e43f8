"""Hosts for tests: a machine of its own each, as far as processes can tell.

Each has namespaces for network, mounts, processes and hostname, and an overlay of this machine's
files as its root. What it writes lies on a disk of its own, in memory, which outlasts a reboot and
is gone with the host. An ordinary user may log in by SSH with a key and may use sudo. One network
card serves both SSH and data, as on a Raspberry Pi.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.helpers.namespaces import Namespace
from tests.helpers.waiting import until

CARD = "eth0"
"""The network card of every host."""

USER = "ada"
USER_ID = 4242
HOME = "/home/Ada Lovelace"
"""Home of the user. What is not quoted on its way to the host breaks on it."""

DISK = r"""
mount -t tmpfs tmpfs "$SCRATCH"
cd "$SCRATCH"
mkdir upper work root home
echo there is a disk
exec sleep 100000
"""
"""What keeps a host's disk, in a namespace of mounts that the host begins with."""

BOOT = r"""
read -r init rest </proc/self/stat  # our pid on this machine, while /proc is still the machine's

# Make a root from this machine's files, with writes kept on the host's disk.
cd "$SCRATCH"
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root
mount --bind home root/home
cd root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
for fresh in tmp run dev/shm; do mount -t tmpfs -o mode=755 tmpfs $fresh; done
chmod 1777 tmp dev/shm
mkdir run/sshd

# Python and its packages may lie where only root can look, or on another file system.
for path in "$PYTHON_PREFIX" "$PYTHON_BASE_PREFIX" "$WORKER_PREFIX"; do
    mkdir -p ".$path"
    mount --bind "$path" ".$path"
    mount -o remount,bind,ro ".$path"
    while path=$(dirname "$path"); [ "$path" != / ]; do chmod a+x ".$path"; done
done

hostname "$NAME"
if [ ! -d ".$HOME" ]; then
    # The user, who may use sudo as on Raspberry Pi OS.
    echo "$USER:x:$USER_ID:$USER_ID::$HOME:/bin/bash" >>etc/passwd
    echo "$USER:*:19000:0:99999:7:::" >>etc/shadow
    echo "$USER:x:$USER_ID:" >>etc/group
    echo "$USER ALL=(ALL) NOPASSWD: ALL" >etc/sudoers.d/$USER
    chmod 440 etc/sudoers.d/$USER
    mkdir ".$HOME"
    chown $USER_ID:$USER_ID ".$HOME"
    chmod 700 ".$HOME"
    echo "127.0.0.1 localhost $NAME" >etc/hosts
    cp "$KEYS/$NAME" etc/ssh/the_host_key
    chmod 600 etc/ssh/the_host_key
    cp "$KEYS/user.pub" etc/ssh/authorized_keys
    touch etc/ssh/the_config
    eval "$FURNISH"
fi

# Be process 1 and nothing else, which reaps what others leave behind. When it is told, its root
# is there.
exec chroot . /bin/sh -c 'echo "$0"; while :; do sleep 1000 & wait; done' $init
"""
"""What makes a host, run in its namespaces as their first process."""

SSHD = (
    *("/usr/sbin/sshd", "-f", "/etc/ssh/the_config", "-o", "HostKey=/etc/ssh/the_host_key"),
    *("-o", "AuthorizedKeysFile=/etc/ssh/authorized_keys", "-o", "PasswordAuthentication=no"),
    *("-o", "PermitRootLogin=no", "-o", "UsePAM=no", "-o", "UseDNS=no", "-o", "PidFile=none"),
    *("-o", "Subsystem=sftp internal-sftp"),
)

PATHS = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


OWN = re.compile(
    "/var/log/(lastlog|wtmp|btmp)$|/run/(utmp$|sudo)|/var/lib/sudo|.*/[.]ansible(/tmp)?$"
)
"""Files that logins and sudo write, and Ansible's empty folder for what it sends and removes."""


@dataclass(frozen=True)
class Kind:
    """What a host has that others have not.

    Parameters
    ----------
    furnish
        Shell commands, run once in the root of the host when it is made: ``./etc`` is its /etc, and
        what they write is on its disk. ``$HOME`` and ``$USER`` are the user's.
    variables
        Variables of the host in the inventory.
    """

    furnish: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A process that runs on a host: its pid on this machine, its user and its command line."""

    pid: int
    user_id: int
    command: str


@dataclass
class Host:
    """One host; it is off before `start` and after `stop`.

    Parameters
    ----------
    network
        Its network namespace, which outlasts a reboot.
    switch
        The namespace whose bridge of the name `bridge` the hosts are plugged into.
    folder
        Where the keys lie, and its disk.
    number
        The last number of its addresses.
    prefix
        The environment whose Python the worker uses.
    kind
        What it has that others have not.
    """

    network: Namespace
    switch: Namespace
    bridge: str
    folder: Path
    number: int
    prefix: Path
    kind: Kind = Kind()
    init: int = 0

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

    def files(self) -> dict[str, str]:
        """What was written on it, in memory too: what each file is, whose, and its content.

        What logins and Ansible itself leave is left out: see `OWN`.
        """
        disk = Path(f"/proc/{self._disk.pid}/root{self.folder}/{self.name}.scratch")
        parts = {
            "": disk / "upper",
            "/home": disk / "home",
            **{f"/{part}": self.file(part) for part in ("run", "tmp", "dev/shm")},
        }
        found = {
            f"{place}/{path.relative_to(root)}": path
            for place, root in parts.items()
            for path in _below(root)
        }
        return {
            name: _told(path)
            for name, path in found.items()
            # An overlay has a copy of each folder below which something was written.
            if not OWN.match(name) and not (path.is_dir() and Path(name).is_dir())
        }

    def start(self) -> None:
        """Boot it, plug in its network card, and let the user in."""
        scratch = self._disk.args[-1]
        settings = {
            **{"NAME": self.name, "SCRATCH": str(scratch), "KEYS": str(self.folder)},
            **{"USER": USER, "USER_ID": str(USER_ID), "HOME": HOME},
            **{"PYTHON_PREFIX": sys.prefix, "PYTHON_BASE_PREFIX": sys.base_prefix},
            **{"WORKER_PREFIX": str(self.prefix), "FURNISH": self.kind.furnish},
        }
        disk = ("nsenter", f"--mount=/proc/{self._disk.pid}/ns/mnt")
        spaces = ("--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child")
        with self.network.entered():
            self._process = _begun(*disk, "unshare", *spaces, "sh", "-euc", BOOT, **settings)
        self.init = int(_first_line(self._process, f"{self.name}: no root could be made"))
        self._plug_in()
        self.start_sshd()

    def stop(self, *, cut_off: bool = False) -> None:
        """Switch it off: with its first process, all that runs on it ends.

        What was in /run and /tmp is gone, and so is its network card with what shaped it. If it was
        `cut_off`, its peers hear nothing of that, as when its power fails.
        """
        if not self.init:
            return
        if cut_off:
            self._unplug()
        os.kill(self.init, signal.SIGKILL)
        self._process.communicate()
        self.init = 0
        if not cut_off:
            self._unplug()

    def remove(self) -> None:
        """Switch it off and take its disk away."""
        self.stop()
        if "_disk" in vars(self):
            self._disk.kill()
            self._disk.communicate()

    def start_sshd(self) -> None:
        """Let the user in."""
        enter = ("nsenter", "--target", str(self.init), "--all", "--root", "--wd")
        address = ("-o", f"ListenAddress={self.address}")
        environment = (f"{name}={value}" for name, value in PATHS.items())
        run(*enter, "env", "-i", *environment, *SSHD, *address)

    def kill_sshd(self) -> None:
        """Cut off all who are in, and let nobody in again; what they started is left alone."""

        def doors() -> list[int]:
            return [task.pid for task in self._processes() if task.command.startswith("sshd:")]

        for pid in doors():
            os.kill(pid, signal.SIGKILL)
        until(lambda: not doors(), f"no sshd on {self.name}")

    @cached_property
    def _disk(self) -> subprocess.Popen[str]:
        """The process that keeps its disk."""
        scratch = self.folder / f"{self.name}.scratch"
        scratch.mkdir()
        disk = _begun("unshare", "--mount", "sh", "-euc", DISK, str(scratch), SCRATCH=str(scratch))
        _first_line(disk, f"{self.name}: it has no disk")
        return disk

    def _plug_in(self) -> None:
        """Give it its network card, always the same, and plug that into the switch."""
        inside, outside = ("ip", "-n", self.network.name), ("ip", "-n", self.switch.name)
        card = ("peer", "name", CARD, "address", f"02:00:00:00:00:{self.number:02x}")
        port = ("name", f"port{self.number}", "type", "veth", *card, "netns", self.network.name)
        run(*outside, "link", "add", *port)
        run(*outside, "link", "set", f"port{self.number}", "master", self.bridge, "up")
        run(*inside, "address", "add", f"{self.address}/24", "dev", CARD)
        run(*inside, "link", "set", CARD, "up")

    def _unplug(self) -> None:
        """Take its network card away."""
        run("ip", "-n", self.network.name, "link", "delete", CARD)

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


def run(*command: str) -> str:
    """Run a command on this machine, showing what it says when it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout


def _begun(*command: str, **settings: str) -> subprocess.Popen[str]:
    """Start a command that ends with this process."""
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command],
        env={**PATHS, **settings},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _first_line(process: subprocess.Popen[str], otherwise: str) -> str:
    """Read the first line that a command prints; `otherwise` is what its end before that means."""
    assert process.stdout and process.stderr
    line = process.stdout.readline()
    assert line, f"{otherwise}: {process.stderr.read()}"
    return line


def _below(root: Path) -> Iterator[Path]:
    """All that lies in a folder, but not what is mounted there, such as the Python of the tests."""
    own = root.stat().st_dev
    for path, folders, files in os.walk(root):
        folder = Path(path)
        folders[:] = sorted(each for each in folders if (folder / each).lstat().st_dev == own)
        yield from (folder / each for each in (*folders, *sorted(files)))


def _told(path: Path) -> str:
    """What a file is: its mode and owner, and for a link or a plain file what is in it."""
    found = path.lstat()
    content = ""
    if path.is_symlink():
        content = f" -> {path.readlink()}"
    elif path.is_file():
        content = " " + hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return f"{stat.filemode(found.st_mode)} {found.st_uid}:{found.st_gid}{content}"
