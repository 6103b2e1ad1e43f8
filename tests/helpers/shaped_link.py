"""Two joined hosts whose links are shaped by the worker's command, as Ansible calls it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paretopipe_worker.link.conditions import Condition, TcpSettings
from paretopipe_worker.link.counters import RelayCounters
from paretopipe_worker.link.traces import Timetable
from paretopipe_worker.shaping import interfaces
from paretopipe_worker.shaping.apply import restore
from paretopipe_worker.shaping.relay import TUN
from tests.helpers.namespaces import Namespace, joined_pair, reason_without_namespaces

DATA_PORT = 29400
FRAME = 1514
"""Bytes of a full Ethernet frame, of which TCP with time stamps leaves `PAYLOAD`."""
PAYLOAD = 1448


AS_SWEEPS = TcpSettings()
"""What a sweep sets where its experiment says nothing. The machine's own congestion control may be
one that pauses by design: BBR sends hardly anything for 200 ms every ten seconds, to learn the
path's round trip anew, and throughput is then rightly measured as less than theory says."""

TAKES_A_RELAY = Condition(rate_mbit=20, delay_ms=0.01)
"""As good as a rate alone, but no condition for htb."""


def reason_without_relay() -> str:
    """Why no link can be shaped by the relay here; empty where it can."""
    tun = "" if os.access(TUN, os.W_OK) else f"no {TUN} here"
    return reason_without_namespaces() or tun


def traced(timetable: Timetable, conditions: Sequence[Condition], *peers: str) -> str:
    """A profile that follows a trace, the same towards every peer."""
    trace = [asdict(condition) for condition in conditions]
    ways = [{"peer": peer, "condition": trace[0], "trace": trace} for peer in peers]
    return json.dumps({"name": "traced", "ways": ways, "timetable": asdict(timetable)})


def profile(name: str, condition: Condition | None, *peers: str) -> str:
    """A profile as ``link apply`` takes it: one condition towards every peer; None shapes none."""
    ways = [{"peer": peer, "condition": asdict(condition)} for peer in peers] if condition else []
    return json.dumps({"name": name, "ways": ways})


@dataclass
class Shaped:
    """Joined hosts, and the command line that shapes their links as Ansible calls it on each."""

    hosts: tuple[Namespace, ...]
    folder: Path
    lease_s: float = 60

    @property
    def lease(self) -> Path:
        """The lease file of all hosts."""
        return self.folder / "lease"

    def state(self, rank: int = 0) -> Path:
        """A host's state folder."""
        return self.folder / f"link-{rank}"

    def call(
        self, verb: str, *words: str, rank: int = 0, before: tuple[str, ...] = (), **options: str
    ) -> Any:
        """Run ``link VERB`` on a host; its JSON, or its error text where it failed."""
        command = [*before, sys.executable, "-m", "paretopipe_worker", "link", verb, *words]
        done = self.hosts[rank].run(*command, check=False, **options)
        assert "Traceback" not in done.stderr, done.stderr
        return json.loads(done.stdout) if done.returncode == 0 else done.stderr

    def arguments(
        self, asked: str, *, tcp: TcpSettings | None = AS_SWEEPS, rank: int = 0, address: str = ""
    ) -> list[str]:
        """Arguments of ``link apply`` for a profile, its lease just renewed.

        With `tcp` None what TCP is set to is left alone.
        """
        self.lease.touch()
        words = ["--profile", asked, "--address", address or self.hosts[rank].address, "--emulate"]
        words += ["--state-dir", str(self.state(rank)), "--ports", str(DATA_PORT)]
        words += ["--tcp", json.dumps(asdict(tcp))] if tcp else []
        return [*words, "--lease", str(self.lease), "--lease-s", str(self.lease_s)]


@dataclass
class Link(Shaped):
    """Two hosts."""

    hosts: tuple[Namespace, Namespace]

    def apply(
        self,
        condition: Condition | None,
        *more: str,
        tcp: TcpSettings | None = AS_SWEEPS,
        rank: int = 0,
        address: str = "",
        **options: Any,
    ) -> Any:
        """Shape a host's link, by whichever engine there is."""
        words = self.asking(condition, tcp=tcp, rank=rank, address=address)
        return self.call("apply", *words, *more, rank=rank, **options)

    def asking(
        self,
        condition: Condition | None,
        *,
        tcp: TcpSettings | None = AS_SWEEPS,
        rank: int = 0,
        address: str = "",
    ) -> list[str]:
        """Arguments of ``link apply``, its lease just renewed."""
        peer = self.hosts[1 - rank]
        asked = profile("asked", condition, peer.address, peer.address6)
        return self.arguments(asked, tcp=tcp, rank=rank, address=address)

    def restore(self, *more: str, rank: int = 0) -> Any:
        """Restore a host's link."""
        return self.call("restore", "--state-dir", str(self.state(rank)), *more, rank=rank)

    def show(self, rank: int = 0) -> list[str]:
        """What shapes a host's link."""
        host = self.hosts[rank]
        with host.entered():
            return interfaces.owning(host.address).state

    def devices(self, rank: int = 0) -> list[str]:
        """Names of a host's network devices."""
        listed = self.hosts[rank].run("ip", "-j", "link", "show").stdout
        return sorted(device["ifname"].split("@")[0] for device in json.loads(listed))

    def keepers(self, rank: int = 0) -> list[int]:
        """The processes inside a host's namespace."""
        name = self.hosts[rank].name
        listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
        return [int(pid) for pid in listed.stdout.split()]

    def counters(self, rank: int = 0) -> RelayCounters:
        """What a host's relay has counted."""
        found = RelayCounters.read(self.state(rank) / "relay.bin")
        assert found is not None
        return found


@dataclass
class WithoutNetem(Link):
    """Two joined hosts on a kernel without netem, or one made to look so."""

    def call(self, verb: str, *words: str, **options: Any) -> Any:
        """Run ``link VERB`` on a host; its JSON, or its error text where it failed."""
        given = {**options, **without_netem(self.folder / "bin")}
        return super().call(verb, *words, **given)


@dataclass
class Relayed(WithoutNetem):
    """Such hosts whose links a relay shapes."""

    def apply(self, *arguments: Any, **options: Any) -> Any:
        """Shape a host's link."""
        done = super().apply(*arguments, **options)
        assert isinstance(done, dict), done
        assert done["engine"] == "relay"
        return done


@contextmanager
def shaped_link(folder: Path) -> Iterator[Link]:
    """Two joined hosts, unshaped again afterwards, with no process left inside."""
    with joined_pair() as hosts, unshaped_afterwards(hosts, folder):
        yield Link(hosts, folder)


@contextmanager
def unshaped_afterwards(hosts: Sequence[Namespace], folder: Path) -> Iterator[None]:
    """Restore the links of hosts at the end of the block."""
    try:
        yield
    finally:
        for rank, host in enumerate(hosts):
            with host.entered():
                restore(folder / f"link-{rank}")


def without_netem(folder: Path) -> dict[str, str]:
    """Environment in which ``tc`` says of netem what a kernel without it does."""
    folder.mkdir(exist_ok=True)
    fake = folder / "tc"
    fake.write_text(
        '#!/bin/sh\ncase "$*" in *netem*) '
        'echo "Error: Specified qdisc kind is unknown." >&2; exit 2;; esac\n'
        f'exec {shutil.which("tc")} "$@"\n'
    )
    fake.chmod(0o755)
    return {"PATH": f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin"}


def serve(host: Namespace, port: int, version: int = 4) -> None:
    """Answer each message, an 8-byte length and that many bytes, with one byte, in a thread."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    address = host.address if version == 4 else host.address6
    with host.entered():
        listener = socket.create_server((address, port), family=family)

    def answer() -> None:
        buffer = bytearray(1 << 20)
        with listener, listener.accept()[0] as peer:
            while header := peer.recv(8, socket.MSG_WAITALL):
                left = int.from_bytes(header, "big")
                while left:
                    left -= peer.recv_into(buffer, min(left, len(buffer)))
                peer.sendall(b".")

    threading.Thread(target=answer, daemon=True).start()


def connect(source: Namespace, sink: Namespace, port: int, version: int = 4) -> socket.socket:
    """Connect from one host to the other."""
    with source.entered():
        address = sink.address if version == 4 else sink.address6
        made = socket.create_connection((address, port), timeout=30)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def transfer_ms(connection: socket.socket, size: int) -> float:
    """Milliseconds until `size` bytes, header included, were sent and answered."""
    message = (size - 8).to_bytes(8, "big") + bytes(size - 8)
    begin = time.perf_counter_ns()
    connection.sendall(message)
    assert connection.recv(1) == b"."
    return (time.perf_counter_ns() - begin) / 1e6


def must_take_ms(size: int, rate_mbit: float) -> float:
    """Milliseconds that a payload takes on the wire, headers included."""
    return size * 8 * FRAME / PAYLOAD / rate_mbit / 1000


def rate20_is_kept(link: Link) -> None:
    """Hold that what is sent to the data port keeps 20 Mbit/s, and has no burst saved up."""
    source, sink = link.hosts
    for port in (DATA_PORT, DATA_PORT + 1):
        serve(sink, port)
    with connect(source, sink, DATA_PORT) as data, connect(source, sink, DATA_PORT + 1) as other:
        transfer_ms(data, 500_000)  # the ramp
        for size in (8 << 10, 128 << 10):
            must = must_take_ms(size, 20)
            # Each begins after a pause in which the link could have saved up a burst. The least
            # of several: a busy machine makes transfers longer, never shorter.
            took = []
            for _ in range(4):
                threading.Event().wait(0.05)
                took.append(transfer_ms(data, size))
            assert abs(min(took) - must) <= max(1.0, 0.05 * must), (size, took, must)
        size, goodputs = 2_000_000, []
        for _ in range(2):
            busy = threading.Thread(target=transfer_ms, args=(data, size))
            begin = time.perf_counter()
            busy.start()
            beside = [transfer_ms(other, 400_000) for _ in range(5)]
            assert busy.is_alive()  # so those went while the shaped link was busy
            busy.join()
            goodputs.append(size * 8 / 1e6 / (time.perf_counter() - begin))
        asked = 20 * PAYLOAD / FRAME
        assert abs(max(goodputs) - asked) <= 0.05 * asked, (goodputs, asked)
        assert statistics.median(beside) < must_take_ms(400_000, 20) / 5, beside


def datagrams(
    source: Namespace, sink: Namespace, count: int, interval_s: float, size: int = 100
) -> list[tuple[int, float]]:
    """Send numbered datagrams to the data port: those that came, in order, and how long they took.

    Each is its number and the seconds it was under way; the hosts share a clock.
    """
    with sink.entered():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind((sink.address, DATA_PORT))
    with source.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.connect((sink.address, DATA_PORT))
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sent: dict[int, int] = {}
    came: list[tuple[int, float]] = []
    with sender, receiver:
        sending = threading.Thread(target=_send, args=(sender, count, interval_s, size, sent))
        sending.start()
        receiver.settimeout(0.5)
        while True:
            try:
                number = int.from_bytes(receiver.recv(2048)[:4], "big")
            except TimeoutError:
                if sending.is_alive():
                    continue
                break
            came.append((number, (time.monotonic_ns() - sent[number]) / 1e9))
        sending.join()
    return came


def _send(
    sender: socket.socket, count: int, interval_s: float, size: int, sent: dict[int, int]
) -> None:
    """Send `count` datagrams, one each `interval_s`."""
    begin = time.monotonic()
    for number in range(count):
        time.sleep(max(0, begin + number * interval_s - time.monotonic()))
        sent[number] = time.monotonic_ns()
        sender.send(number.to_bytes(4, "big").ljust(size, b"."))
