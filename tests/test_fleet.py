"""The inventory's hosts: what is refused names the host and what is allowed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from paretopipe_worker import fleet

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
        ({**SERVER, "data_address": "server.lan"}, "stages[1].data_address", "IPv4 or IPv6"),
        ({**SERVER, "data_port": 80}, "stages[1].data_port", "equal to 1024"),
        ({**SERVER, "threads": 0}, "stages[1].threads", "equal to 1"),
        ({**SERVER, "device_emulated": 0.5}, "stages[1].device_emulated", "equal to 1"),
        ({"name": "server"}, "stages[1].data_address", "required"),
        ({**SERVER, "speed": 2}, "stages[1].speed", "unexpected"),
        ({**SERVER, "data_address": "10.0.0.1"}, "data_address 10.0.0.1", "each needs its own"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_bad_host_is_refused(host: dict[str, Any], where: str, allowed: str) -> None:
    with pytest.raises(fleet.FleetError) as refused:
        parse(EDGE, host)
    assert where in str(refused.value)
    assert allowed in str(refused.value).replace("Unexpected", "unexpected")


def test_one_host_is_no_pipeline() -> None:
    with pytest.raises(fleet.FleetError, match="at least 2"):
        parse(EDGE)
