"""The inventory's hosts: what is refused names the host and what is allowed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from paretopipe_worker.plan import fleet

EDGE = {"name": "edge", "data_address": "10.0.0.1"}
SERVER = {"name": "server", "data_address": "10.0.0.2"}


def parse(*hosts: dict[str, Any]) -> tuple[fleet.Host, ...]:
    """Hosts as the playbook hands them over."""
    return fleet.parse(json.dumps(hosts))


def test_hosts_keep_the_order_of_the_inventory() -> None:
    assert [host.name for host in parse(SERVER, EDGE)] == ["server", "edge"]


@pytest.mark.parametrize(
    ("host", "where", "allowed"),
    [
        ({**SERVER, "data_address": "server.lan"}, "'server': data_address: ", "IPv4 or IPv6"),
        ({**SERVER, "data_port": 80}, "'server': data_port: ", "equal to 1024"),
        ({**SERVER, "threads": 0}, "'server': threads: ", "equal to 1"),
        ({**SERVER, "device_emulated": 0.5}, "'server': device_emulated: ", "equal to 1"),
        ({**SERVER, "memory_mb": 0}, "'server': memory_mb: ", "greater than 0"),
        ({**SERVER, "device": "gpu"}, "'server': device: ", "such as cuda:0"),
        ({**SERVER, "runtime": "onnx"}, "'server': runtime: ", "'eager', 'onnxruntime'"),
        ({**SERVER, "busy": {"cores": 0}}, "'server': busy.cores: ", "equal to 1"),
        ({**SERVER, "busy": {"cores": 1, "memory_mb": 0}}, "'server': busy.memory_mb: ", "to 1"),
        ({**SERVER, "busy": {}}, "'server': busy.cores: ", "required"),
        ({**SERVER, "busy": {"cores": 1, "cpu": 1}}, "busy.cpu: ", "allowed: cores, memory_mb"),
        ({**SERVER, "busy": True}, "'server': busy: ", "got True"),
        ({"name": "server"}, "'server': data_address: ", "required"),
        ({**SERVER, "speed": 2}, "'server': speed: ", "allowed: name, data_address"),
        ({**SERVER, "data_address": "10.0.0.1"}, "data_address 10.0.0.1", "each needs its own"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_bad_host_is_refused(host: dict[str, Any], where: str, allowed: str) -> None:
    with pytest.raises(fleet.FleetError) as refused:
        parse(EDGE, host)
    assert where in str(refused.value)
    assert allowed in str(refused.value)


def test_one_host_is_no_pipeline() -> None:
    with pytest.raises(fleet.FleetError, match="at least 2"):
        parse(EDGE)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("fe80::1%eth0", "a link-local address with its zone (%) names no host to the others"),
        ("fe80::1", "give the interface a private address"),
        ("fd00::1%2", "with its zone"),
        ("0.0.0.0", "no single host's"),
        ("::", "no single host's"),
        ("ff02::1", "no single host's"),
        ("255.255.255.255", "no single host's"),
        ("::ffff:10.0.0.2", "an IPv4 address is written 10.0.0.2"),
    ],
)
def test_an_address_that_no_other_host_can_name_is_refused(address: str, said: str) -> None:
    with pytest.raises(fleet.FleetError) as refused:
        parse(EDGE, {**SERVER, "data_address": address})
    assert str(refused.value).startswith("inventory: 'server': data_address: must be an IPv4 or")
    assert said in str(refused.value)
    assert str(refused.value).endswith(f"got '{address}'")


def test_an_address_has_one_form_however_it_is_written() -> None:
    written = {"0:0:0:0:0:0:0:1": "::1", "FD00:0::00A1": "fd00::a1", " 10.0.0.2": "10.0.0.2"}
    for text, canonical in written.items():
        assert parse(EDGE, {**SERVER, "data_address": text})[1].data_address == canonical
    with pytest.raises(fleet.FleetError, match="each needs its own"):
        parse({**EDGE, "data_address": "::1"}, {**SERVER, "data_address": "0:0:0:0:0:0:0:1"})


def test_numbers_may_come_as_text_as_variables_of_the_command_line_do() -> None:
    texts = {
        "data_port": "29500",
        "threads": "2",
        "device_emulated": "1",
        "speed_hint": "6.5",
        "memory_mb": "800",
    }
    host = parse(EDGE, {**SERVER, **texts})[1]
    assert (host.data_port, host.threads) == (29500, 2)
    assert (host.device_emulated, host.speed_hint, host.memory_mb) == (1.0, 6.5, 800)
    for name, text in (("threads", "two"), ("threads", "2.5"), ("device_emulated", "nan")):
        with pytest.raises(fleet.FleetError) as refused:
            parse(EDGE, {**SERVER, name: text})
        assert str(refused.value).startswith(f"inventory: 'server': {name}: input should be")


def test_hosts_that_cannot_reach_one_another_are_told_apart() -> None:
    hosts = parse(EDGE, SERVER, {"name": "v6", "data_address": "fd00::1"})
    loop = parse(EDGE, {"name": "loop", "data_address": "127.0.0.1"})
    assert fleet.apart(hosts[:2]) is None
    assert "IPv4 and IPv6" in str(fleet.apart(hosts[1:]))
    assert "loopback" in str(fleet.apart(loop))


def test_one_host_can_be_prepared_but_is_no_pipeline() -> None:
    one = '[{"name": "pi", "data_address": "192.0.2.1"}]'
    assert [host.name for host in fleet.parse(one, least=1)] == ["pi"]
    with pytest.raises(fleet.FleetError, match="has 1 hosts; at least 2 are needed"):
        fleet.parse(one)
