"""Shaping: the commands without root, their effect on real sockets between two namespaces."""

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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from paretopipe_worker import interfaces, tc
from paretopipe_worker.shaping import restore
from paretopipe_worker.tc import LinkProfile, Shaping, ShapingError
from tests.namespaces import INTERFACE, Namespace, joined_pair, reason_without_namespaces

DATA_PORT = 29400
FRAME = 1514
"""Bytes of a full Ethernet frame, of which TCP with time stamps leaves `PAYLOAD`."""
PAYLOAD = 1448
WIRE20 = LinkProfile("wire20", rate_mbit=20)
NETEM = interfaces.probe_kernel()

namespaces = pytest.mark.skipif(
    bool(reason_without_namespaces()), reason=reason_without_namespaces()
)

pytestmark = pytest.mark.alone


def shaping(profile: LinkProfile, *peers: str) -> Shaping:
    return Shaping(profile, peers or ("10.77.0.2",), (DATA_PORT,))


def commands(profile: LinkProfile, *peers: str) -> list[str]:
    made = tc.apply_commands(shaping(profile, *peers), "eth0", mtu=1500)
    return [" ".join(command) for command in made]


# The pure part


def test_a_rate_is_an_htb_class_that_only_the_data_ports_enter() -> None:
    assert commands(WIRE20) == [
        "ip link set dev eth0 gso_max_segs 1",
        "tc qdisc add dev eth0 root handle 7070: htb default 0 direct_qlen 1000",
        "tc class add dev eth0 parent 7070: classid 7070:1 htb rate 20000kbit ceil 20000kbit "
        "burst 1514 cburst 1514 quantum 1514",
        "tc qdisc add dev eth0 parent 7070:1 handle 7071: pfifo limit 1000",
        "tc filter add dev eth0 parent 7070: protocol ip pref 1 u32 match ip dst 10.77.0.2/32 "
        "match ip sport 29400 0xffff flowid 7070:1",
        "tc filter add dev eth0 parent 7070: protocol ip pref 1 u32 match ip dst 10.77.0.2/32 "
        "match ip dport 29400 0xffff flowid 7070:1",
    ]


@pytest.mark.parametrize("rate_mbit", [0.001, 0.5, 5, 20, 54.7, 100, 1000, 100_000])
@pytest.mark.parametrize("mtu", [1280, 1500, 9000])
def test_what_passes_at_once_after_a_pause_is_two_frames_at_most(
    rate_mbit: float, mtu: int
) -> None:
    made = tc.apply_commands(shaping(LinkProfile("x", rate_mbit)), "eth0", mtu)
    (words,) = [command for command in made if command[1] == "class"]
    burst = int(words[words.index("burst") + 1])
    # htb sends while its bucket is not overdrawn: the bucket, and the frame that overdraws it.
    assert 0 < burst <= mtu + 14
    assert words[words.index("cburst") + 1] == str(burst)


def test_delay_is_a_netem_leaf_with_its_own_rate_inside_an_unlimited_class() -> None:
    made = commands(LinkProfile("both", rate_mbit=5, delay_ms=200))
    # 5 Mbit/s over 200 ms is 125,000 bytes under way: 83 frames beside the queue.
    assert made[3].endswith("handle 7071: netem limit 1083 delay 200.00ms rate 5000kbit")
    assert "rate 10000000kbit ceil 10000000kbit burst 1250000" in made[2]


def test_the_limit_of_a_delay_without_a_rate_covers_a_fast_link() -> None:
    leaf = commands(LinkProfile("far", delay_ms=200))[3]
    assert " rate " not in leaf
    assert int(leaf.split("limit ")[1].split()[0]) > 10e9 * 0.2 / 8 / FRAME


def test_netem_is_added_anew_and_never_changed() -> None:
    made = commands(LinkProfile("both", rate_mbit=5, delay_ms=200))
    assert not any(word in command for command in made for word in ("change", "replace"))


def test_ipv6_peers_get_filters_of_their_own_protocol() -> None:
    *_, sport, dport = commands(WIRE20, "fd00::2")
    match = "protocol ipv6 pref 2 u32 match ip6 dst fd00::2/128 match ip6"
    assert sport.endswith(f"{match} sport 29400 0xffff flowid 7070:1")
    assert dport.endswith(f"{match} dport 29400 0xffff flowid 7070:1")


@pytest.mark.parametrize(
    "leaf",
    [
        # As iproute2 prints it: seconds, and bytes per second.
        '{"kind":"netem","handle":"7071:","parent":"7070:1","options":{"limit":1083,"delay":'
        '{"delay":0.2,"jitter":0,"correlation":0},"rate":{"rate":625000,"packetoverhead":0,'
        '"cellsize":0,"celloverhead":0},"ecn":false,"gap":0}}',
    ],
)
def test_netem_is_read_back_as_it_was_asked_for(leaf: str) -> None:
    asked = shaping(LinkProfile("both", rate_mbit=5, delay_ms=200))
    root = {"kind": "htb", "handle": "7070:", "root": True}
    classes = "class htb 7070:1 root leaf 7071: prio 0 rate 10Gbit ceil 10Gbit burst 1250000b\n"
    head = "filter protocol ip pref 1 u32 chain 0 fh 800::80"
    tail = (
        " order 2048 key ht 800 bkt 0 flowid 7070:1 not_in_hw \n  match 0a4d0002/ffffffff at 16\n"
    )
    filters = (
        "filter protocol ip pref 1 u32 chain 0 fh 800: ht divisor 1 \n"
        f"{head}0{tail}  match 72d80000/ffff0000 at 20\n"
        f"{head}1{tail}  match 000072d8/0000ffff at 20\n"
    )
    state = tc.read_state("eth0", 1, [root, json.loads(leaf)], classes, filters)
    assert state == tc.expected_state(asked, "eth0", mtu=1500)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"name": "x", "rate_mbit": 0}', "rate_mbit: 0.001 to 100000; got 0"),
        ('{"name": "x", "rate_mbit": true}', "rate_mbit: 0.001 to 100000; got True"),
        ('{"name": "x", "delay_ms": -1}', "delay_ms: 0, or 0.01 to 10000; got -1"),
        ('{"name": "x", "delay_ms": NaN}', "delay_ms: 0, or 0.01 to 10000; got nan"),
        ('{"name": "x", "loss": 3}', "loss: unknown key; allowed: name, rate_mbit, delay_ms"),
        ('{"rate_mbit": 3}', "JSON object with a name"),
        ("20", "JSON object with a name"),
        ("{", "not JSON"),
    ],
)
def test_a_bad_profile_is_refused_by_key_and_allowed_values(text: str, named: str) -> None:
    with pytest.raises(ShapingError) as refused:
        LinkProfile.parse(text)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("peers", "ports", "named"),
    [
        (("pi.local",), (DATA_PORT,), "'pi.local' is not an IP address"),
        ((), (DATA_PORT,), "at least one"),
        (("10.0.0.2",), (22,), "so that SSH stays free; got 22"),
    ],
)
def test_what_no_filter_can_be_made_of_is_refused(
    peers: tuple[str, ...], ports: tuple[int, ...], named: str
) -> None:
    with pytest.raises(ShapingError) as refused:
        Shaping(WIRE20, peers, ports)
    assert named in str(refused.value)


# The real part


@dataclass
class Link:
    """Two hosts and the command line as Ansible calls it on either."""

    hosts: tuple[Namespace, Namespace]
    folder: Path
    lease_s: float = 60

    def call(
        self, verb: str, *words: str, rank: int = 0, before: tuple[str, ...] = (), **options: str
    ) -> Any:
        """Run ``link VERB`` on a host; its JSON, or its error text where it failed."""
        command = [*before, sys.executable, "-m", "paretopipe_worker", "link", verb, *words]
        done = self.hosts[rank].run(*command, check=False, **options)
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout) if done.returncode == 0 else done.stderr

    def apply(
        self, profile: str, *more: str, rank: int = 0, address: str = "", **options: Any
    ) -> Any:
        """Shape a host's link."""
        words = self.asking(profile, rank, address)
        return self.call("apply", *words, *more, rank=rank, **options)

    def asking(self, profile: str, rank: int = 0, address: str = "") -> list[str]:
        """Arguments of ``link apply``, its lease just renewed."""
        own, peer = self.hosts if rank == 0 else self.hosts[::-1]
        lease = self.folder / "lease"
        lease.touch()
        words = ["--profile", profile, "--address", address or own.address, *self.state(rank)]
        words += ["--peers", f"{peer.address},{peer.address6}", "--ports", str(DATA_PORT)]
        return [*words, "--lease", str(lease), "--lease-s", str(self.lease_s)]

    def restore(self, *more: str, rank: int = 0) -> Any:
        """Restore a host's link."""
        return self.call("restore", *self.state(rank), *more, rank=rank)

    def state(self, rank: int) -> tuple[str, str]:
        """The option that names a host's state folder."""
        return ("--state-dir", str(self.folder / f"link-{rank}"))

    def show(self, rank: int = 0) -> list[str]:
        """What shapes a host's link."""
        host = self.hosts[rank]
        with host.entered():
            return interfaces.owning(host.address).state

    def keepers(self, rank: int = 0) -> list[int]:
        """The processes inside a host's namespace."""
        name = self.hosts[rank].name
        listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
        return [int(pid) for pid in listed.stdout.split()]


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Link]:
    """Two joined hosts, unshaped again afterwards, with no process left inside."""
    with joined_pair() as hosts:
        made = Link(hosts, tmp_path)
        yield made
        for rank, host in enumerate(hosts):
            with host.entered():
                restore(tmp_path / f"link-{rank}")


RATE20 = '{"name": "wire20", "rate_mbit": 20, "delay_ms": 0}'
RATE5 = '{"name": "wire5", "rate_mbit": 5, "delay_ms": 0}'
UNSHAPED = ["interface link0", "gso_max_segs 65535", "root noqueue"]


def serve(host: Namespace, port: int) -> None:
    """Answer each message, an 8-byte length and that many bytes, with one byte, in a thread."""
    with host.entered():
        listener = socket.create_server((host.address, port))

    def answer() -> None:
        buffer = bytearray(1 << 20)
        with listener, listener.accept()[0] as peer:
            while header := peer.recv(8, socket.MSG_WAITALL):
                left = int.from_bytes(header, "big")
                while left:
                    left -= peer.recv_into(buffer, min(left, len(buffer)))
                peer.sendall(b".")

    threading.Thread(target=answer, daemon=True).start()


def connect(source: Namespace, sink: Namespace, port: int) -> socket.socket:
    """Connect from one host to the other."""
    with source.entered():
        return socket.create_connection((sink.address, port), timeout=30)


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


@pytest.mark.long
@pytest.mark.alone
@namespaces
@pytest.mark.must_run
def test_a_shaped_link_carries_data_at_its_rate_and_all_else_untouched(link: Link) -> None:
    source, sink = link.hosts
    for rank in (0, 1):
        assert link.apply(RATE20, rank=rank)["changed"]
    for port in (DATA_PORT, DATA_PORT + 1):
        serve(sink, port)
    with connect(source, sink, DATA_PORT) as data, connect(source, sink, DATA_PORT + 1) as other:
        for size in (8 << 10, 31 << 10, 128 << 10):
            must = must_take_ms(size, 20)
            # Each begins after a pause in which the link could have saved up a burst. The least
            # of several: load on the machine makes transfers longer, never shorter.
            took = []
            for _ in range(6):
                threading.Event().wait(0.05)
                took.append(transfer_ms(data, size))
            assert min(took) == pytest.approx(must, abs=max(1.0, 0.05 * must)), size
        size, goodputs = 2_000_000, []
        for _ in range(3):
            busy = threading.Thread(target=transfer_ms, args=(data, size))
            begin = time.perf_counter()
            busy.start()
            beside = [transfer_ms(other, 400_000) for _ in range(5)]
            assert busy.is_alive()  # so those went while the shaped link was busy
            busy.join()
            goodputs.append(size * 8 / 1e6 / (time.perf_counter() - begin))
        # Late timers and load on the machine make it less, never more.
        assert max(goodputs) == pytest.approx(20 * PAYLOAD / FRAME, rel=0.05)
        assert statistics.median(beside) < must_take_ms(400_000, 20) / 5


@namespaces
@pytest.mark.must_run
def test_applying_again_changes_nothing_and_restoring_brings_everything_back(link: Link) -> None:
    assert link.show() == UNSHAPED
    would = link.apply(RATE20, "--check")
    assert would["changed"]
    assert link.show() == UNSHAPED
    assert not (link.folder / "link-0").exists()
    first = link.apply(RATE20)
    assert first == would
    shown = link.call("show", "--address", link.hosts[0].address)
    assert (shown["interface"], shown["shaped"], shown["state"]) == ("link0", True, first["after"])
    saved = (link.folder / "link-0" / "before.json").read_text()
    keepers = link.keepers()
    assert len(keepers) == 1
    second = link.apply(RATE20)
    assert (second["changed"], second["commands"]) == (False, [])
    assert link.keepers() == keepers
    assert (link.folder / "link-0" / "before.json").read_text() == saved
    assert link.restore("--check")["changed"]
    assert link.show() == first["after"].splitlines()
    back = link.restore()
    assert back["changed"]
    assert back["after"].splitlines() == link.show() == UNSHAPED
    assert link.keepers() == []
    assert not link.restore()["changed"]


@namespaces
@pytest.mark.must_run
def test_of_two_that_apply_at_once_one_finds_it_done(link: Link) -> None:
    words = link.asking(RATE20)
    command = [sys.executable, "-m", "paretopipe_worker", "link", "apply", *words]
    with link.hosts[0].entered():
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    results = [json.loads(each.communicate(timeout=60)[0]) for each in both]
    assert sorted(result["changed"] for result in results) == [False, True]
    assert len(link.keepers()) == 1


@namespaces
@pytest.mark.must_run
def test_another_profile_takes_the_place_of_the_first(link: Link) -> None:
    link.apply(RATE20)
    changed = link.apply(RATE5)
    assert changed["changed"]
    assert "class 7070:1 rate 5000 kbit/s" in link.show()
    assert len(link.keepers()) == 1
    assert link.apply('{"name": "none"}')["changed"]
    assert link.show() == UNSHAPED
    assert link.keepers() == []


@namespaces
@pytest.mark.must_run
def test_a_link_that_somebody_changed_under_us_is_shaped_again(link: Link) -> None:
    link.apply(RATE20)
    link.hosts[0].run("tc", "filter", "del", "dev", INTERFACE, "parent", "7070:", "pref", "1")
    assert link.apply(RATE20)["changed"]
    assert f"shaped: dport {DATA_PORT} to {link.hosts[1].address}" in link.show()


@namespaces
@pytest.mark.must_run
def test_somebody_elses_qdisc_is_named_and_left_alone(link: Link) -> None:
    own = ["tc", "qdisc", "add", "dev", INTERFACE, "root", "handle", "5:", "tbf"]
    link.hosts[0].run(*own, "rate", "1gbit", "burst", "64k", "latency", "10ms")
    before = link.show()
    refused = link.apply(RATE20, "--host", "pi-1")
    assert refused.startswith("pi-1: link0: profile wire20: the root qdisc is 'tbf 5:'")
    assert link.show() == before
    assert not link.restore()["changed"]
    assert link.show() == before


@namespaces
@pytest.mark.must_run
@pytest.mark.parametrize(
    ("instead", "said"),
    [("echo RTNETLINK says no >&2; exit 2", "RTNETLINK says no"), ("exit 0", "differ in: shaped")],
)
def test_a_step_that_fails_or_does_nothing_undoes_all(link: Link, instead: str, said: str) -> None:
    real = shutil.which("tc")
    folder = link.folder / "bin"
    folder.mkdir()
    fake = folder / "tc"
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in "filter add"*dport*) {instead};; esac\nexec {real} "$@"\n'
    )
    fake.chmod(0o755)
    refused = link.apply(RATE20, PATH=f"{folder}:{os.environ['PATH']}")
    assert said in refused
    assert link.show() == UNSHAPED
    assert link.keepers() == []
    assert link.apply(RATE20)["changed"]


@namespaces
@pytest.mark.must_run
def test_shaping_is_cleared_where_the_state_folder_was_lost(link: Link) -> None:
    link.apply(RATE20)
    (keeper,) = link.keepers()
    os.kill(keeper, 9)
    shutil.rmtree(link.folder / "link-0")
    assert link.restore()["changed"]
    assert link.show() == UNSHAPED


@namespaces
@pytest.mark.must_run
def test_an_address_that_is_not_here_is_named_with_those_that_are(link: Link) -> None:
    refused = link.apply(RATE20, address="10.9.9.9")
    assert "no interface has the data address 10.9.9.9" in refused
    assert f"{link.hosts[0].address} (link0)" in refused
    assert "loopback" in link.apply(RATE20, address="127.0.0.1")


@namespaces
@pytest.mark.must_run
def test_shaping_by_ipv6_address_works_as_well(link: Link) -> None:
    assert link.apply(RATE20, address=link.hosts[0].address6)["changed"]
    assert f"shaped: dport {DATA_PORT} to {link.hosts[1].address6}" in link.show()


@namespaces
@pytest.mark.must_run
@pytest.mark.skipif(NETEM["netem"], reason="this kernel has netem: its absence cannot be tried")
def test_delay_without_netem_is_refused_before_anything_changes(link: Link) -> None:
    refused = link.apply('{"name": "far", "delay_ms": 200}', "--host", "pi-1")
    for named in ("pi-1", "sch_netem", NETEM["kernel"], "linux-modules-extra", "Raspberry Pi OS"):
        assert named in refused
    assert link.show() == UNSHAPED


@pytest.mark.alone
@namespaces
@pytest.mark.skipif(not NETEM["netem"], reason=f"netem was tried here: {NETEM['reason']}")
def test_delay_lengthens_the_round_trip_by_what_was_asked(link: Link) -> None:
    for rank in (0, 1):
        assert link.apply('{"name": "far", "delay_ms": 50, "rate_mbit": 20}', rank=rank)["changed"]
    source, sink = link.hosts
    serve(sink, DATA_PORT)
    with connect(source, sink, DATA_PORT) as data:
        assert min(transfer_ms(data, 8) for _ in range(5)) == pytest.approx(100, abs=3)


@namespaces
@pytest.mark.must_run
def test_who_may_not_shape_is_told_that_it_needs_root(link: Link) -> None:
    # Root without the capability: another user may not reach this interpreter's files.
    lesser = ("setpriv", "--bounding-set=-net_admin")
    refused = link.apply(RATE20, before=lesser)
    assert "not permitted (shaping needs root)" in refused
    assert link.show() == UNSHAPED
    assert link.keepers() == []


def test_a_link_is_shaped_inside_an_unprivileged_namespace(tmp_path: Path) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--net"]
    trial = subprocess.run([*unshare, "true"], capture_output=True, text=True)
    if trial.returncode != 0:
        pytest.skip(f"no unprivileged namespaces here: {trial.stderr.strip()}")
    common = f"{sys.executable} -m paretopipe_worker link"
    script = f"""set -e
        ip link add link0 type veth peer name link1
        ip address add 10.77.0.1/24 dev link0 && ip link set link0 up
        touch lease
        {common} apply --profile '{RATE20}' --address 10.77.0.1 --peers 10.77.0.2 \
            --ports 29400 --state-dir state --lease lease --lease-s 60
        {common} restore --state-dir state"""
    environment = {**os.environ, "PYTHONPATH": str(Path(tc.__file__).parents[1])}
    done = subprocess.run(
        [*unshare, "sh", "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    applied, restored = (json.loads(line) for line in done.stdout.splitlines())
    assert "class 7070:1 rate 20000 kbit/s" in applied["after"]
    assert restored["after"].splitlines() == UNSHAPED
