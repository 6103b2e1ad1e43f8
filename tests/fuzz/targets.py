"""What reads input from outside, and the errors by which it may refuse it.

A target takes any bytes. It returns, or raises nothing but what its reader documents; everything
else is a fault that the fuzzer reports.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from paretopipe_worker.cuts import TensorSpec, Varying
from paretopipe_worker.link import traces
from paretopipe_worker.model import program
from paretopipe_worker.model.program import PartitionError
from paretopipe_worker.plan import fleet, plan, spec
from paretopipe_worker.records import files
from paretopipe_worker.session.control import Channel, ControlError
from paretopipe_worker.transport import handshake
from paretopipe_worker.transport.agreement import Agreement
from paretopipe_worker.transport.api import TransportError
from paretopipe_worker.transport.handshake import HandshakeError, Identity
from paretopipe_worker.transport.tcp import TcpTransport
from paretopipe_worker.wire.api import WireError
from paretopipe_worker.wire.formats import FORMATS, packer
from tests.fuzz import foreign
from tests.helpers.fake_plan import make, tiny_table
from tests.helpers.fake_run import FakeRun
from tests.helpers.models import programmed

Check = Callable[[bytes], None]


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Parameters
    ----------
    check
        Reads any bytes; what it raises is a fault.
    seeds
        Right inputs, from which the fuzzer begins.
    most_bytes
        Longest input that is tried.
    """

    check: Check
    seeds: Callable[[], list[bytes]]
    most_bytes: int = 4096


OWN = Identity("ring", 1, "run/session.1", Agreement(plan="p" * 64), b"s" * 64)
_SEAL_BYTES = 32


def _drive(dialogue: handshake.Dialogue, unread: bytes) -> list[bytes]:
    """Give a handshake what it asks for until nothing is left; what it said."""
    said: list[bytes] = []
    wants: bytes | int = next(dialogue)
    while True:
        if isinstance(wants, bytes):
            said.append(wants)
            wants = next(dialogue)
        elif len(unread) < wants:
            dialogue.throw(handshake.closed("a peer"))
        else:
            part, unread = unread[:wants], unread[wants:]
            wants = dialogue.send(part)


def handshake_of_a_stranger(data: bytes) -> None:
    """Both ends of a handshake with a peer that does not know the secret."""
    for dialogue in (handshake.answering(OWN, "a peer"), handshake.calling(OWN, {0}, "a peer")):
        try:
            said = _drive(dialogue, data)
        except HandshakeError:
            continue
        raise AssertionError(f"a stranger was admitted; it was told {said}")


def hello_of_a_rank(data: bytes) -> None:
    """What one says that knows the secret: any text under a right proof."""
    dialogue = handshake.answering(OWN, "a peer")
    mine = struct.pack("<4sH32s", b"PPRH", handshake.VERSION, b"n" * 32)
    next(dialogue)
    theirs = dialogue.send(mine)
    assert isinstance(theirs, bytes)
    next(dialogue)
    said = dialogue.send(handshake._seal(OWN, "caller", mine + theirs))
    assert isinstance(said, bytes)
    next(dialogue)
    before = mine + theirs + said[2:-_SEAL_BYTES]
    try:
        dialogue.send(struct.pack("<H", len(data) & 0xFFFF))
        dialogue.send(data)
        dialogue.send(handshake._seal(OWN, "caller hello", before + data))
    except HandshakeError:
        return
    except StopIteration as ended:
        with contextlib.suppress(HandshakeError):
            handshake.judge(OWN, ended.value, {0}, "a peer")


def control_messages(data: bytes) -> None:
    """Lines on a control channel."""
    here, there = socket.socketpair()
    with contextlib.closing(Channel(here, "rank 1")) as channel, there:
        there.sendall(data)
        there.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ControlError):
            while True:
                assert isinstance(channel.receive(10), dict)


_FIXED = (TensorSpec((1, 3, 4), "float32"), TensorSpec((2,), "int64"))
_VARYING = (Varying((64,), "uint8"),)


def frames(data: bytes) -> None:
    """Messages of a link over tcp, of a fixed and of a varying size."""
    for specs in (_FIXED, _VARYING):
        here, there = socket.socketpair()
        with there, contextlib.closing(TcpTransport(here, here)) as transport:
            transport.configure(specs, specs, window=2, deadline_s=10)
            transport.begin(overlap=False)
            there.sendall(data)
            there.shutdown(socket.SHUT_WR)
            with contextlib.suppress(TransportError):
                while True:
                    transport.recv()


_PACKED = [TensorSpec((2,), "bool"), TensorSpec((1, 2, 9, 9), "float32"), TensorSpec((3,), "int64")]
_TENSORS = (torch.ones(2, dtype=torch.bool), torch.arange(162.0).view(1, 2, 9, 9), torch.arange(3))
_PACKERS = {name: packer(name, _PACKED) for name in FORMATS}


def packed_tensors(data: bytes) -> None:
    """A packed message of each wire format."""
    for made in _PACKERS.values():
        with contextlib.suppress(WireError):
            found = made.unpack(data)
            assert [tuple(tensor.shape) for tensor in found] == [each.shape for each in _PACKED]


def programs(data: bytes) -> None:
    """A program, as hosts get it."""
    with contextlib.suppress(PartitionError):
        program.load(data, "a program")


@contextlib.contextmanager
def _file(data: bytes) -> Iterator[Path]:
    """A file with these bytes."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(data)
        file.flush()
        yield Path(file.name)


def records(data: bytes) -> None:
    """A file of records."""
    with _file(data) as path, contextlib.suppress(files.RecordError):
        list(files.read_records(path))


def plans(data: bytes) -> None:
    """A run's plan."""
    with _file(data) as path, contextlib.suppress(plan.PlanError):
        plan.read(path)


def specs(data: bytes) -> None:
    """A person's experiment."""
    with _file(data) as path, contextlib.suppress(spec.SpecError):
        spec.read(path)


def inventories(data: bytes) -> None:
    """The hosts of an inventory, as Ansible hands them over."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    with contextlib.suppress(fleet.FleetError):
        fleet.parse(text)


def link_traces(data: bytes) -> None:
    """A trace of a link."""
    with _file(data) as path, contextlib.suppress(traces.TraceError):
        traces.read(path, "a trace", None)


def _plan_seed() -> list[bytes]:
    """A plan as it is written."""
    return [plan.dump(make(tiny_table())).encode()]


def _records_seed() -> list[bytes]:
    """Files of records as they are written."""
    with tempfile.TemporaryDirectory() as folder:
        run = FakeRun(Path(folder, "run"), make(tiny_table()), items=3).all_sessions()
        return [file.read_bytes() for file in run.path.rglob("*.jsonl")]


def _program_seed() -> list[bytes]:
    """A program as it is written."""
    with torch.inference_mode():
        return [
            program.dump(
                programmed(
                    torch.nn.Sequential(torch.nn.Linear(4, 2)).eval(), torch.randn(1, 4)
                ).program
            )
        ]


def _packed_seed() -> list[bytes]:
    """A message of each wire format."""
    return [bytes(made.pack(_TENSORS)) for made in _PACKERS.values()]


def _inventory_seed() -> list[bytes]:
    """Hosts with few and with all variables."""
    hosts = [asdict(host) for host in make(tiny_table()).hosts]
    few = [{"name": host["name"], "data_address": host["data_address"]} for host in hosts]
    return [json.dumps(each).encode() for each in (few, hosts)]


_HELLO = {"purpose": "ring", "rank": 0, "session": "run/session.1"}
_SPEC: dict[str, Any] = {
    "models": ["mobilenet_v2", {"name": "own", "factory": "own:Net", "input": [3, 8, 8]}],
    "links": ["none", {"name": "slow", "rate_mbit": 20, "delay_ms": 2, "loss_percent": 1}],
    "backends": ["tcp"],
    "splits": {"granularity": "block", "cuts": "all"},
    "phases": {"min_items": 20, "max_s": 30},
}


TARGETS: dict[str, Target] = {
    "handshake": Target(
        handshake_of_a_stranger,
        lambda: [struct.pack("<4sH32s", b"PPRH", handshake.VERSION, b"n" * 32) + b"x" * 70],
    ),
    "hello": Target(
        hello_of_a_rank,
        lambda: [json.dumps(_HELLO | {"agreement": asdict(OWN.agreement)}).encode()],
    ),
    "control": Target(control_messages, lambda: [b'{"do": "point", "point": "x"}\n{"ready": 1}\n']),
    "frames": Target(
        frames,
        lambda: [struct.pack("<4sHHQQQ", b"PPTP", 2, 2, 0, 64, 0) + bytes(64)],
    ),
    "packed": Target(packed_tensors, _packed_seed),
    "program": Target(programs, _program_seed, 1 << 14),
    "records": Target(records, _records_seed, 1 << 14),
    "plan": Target(plans, _plan_seed, 1 << 14),
    "spec": Target(specs, lambda: [yaml.safe_dump(_SPEC).encode()]),
    "inventory": Target(inventories, _inventory_seed),
    "trace": Target(link_traces, lambda: [b"time_s,rate_mbit,delay_ms\n0,20,1\n5,10,2\n"]),
    "json": Target(foreign.documents, lambda: [b'{"a": [1, 2.5e3, null, "\\u00e9"]}']),
    "archive": Target(foreign.archives, foreign.archive_seed, 1 << 13),
    "metrics": Target(foreign.metrics, foreign.metrics_seed),
    "times": Target(foreign.times, lambda: [b"0.5 0.1 0.2 3  # total edge cloud cut\n"]),
    "pipeedge": Target(foreign.pipeedge_models, foreign.pipeedge_seed),
    "links": Target(foreign.tables_of_links, foreign.links_seed),
    "logs": Target(foreign.logs, foreign.logs_seed),
    "answers": Target(foreign.answers, foreign.answers_seed),
}
"""What is fuzzed, by name."""
