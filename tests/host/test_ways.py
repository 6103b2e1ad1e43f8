"""Hosts that call one another at their data ports, before anything is installed on them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from paretopipe_worker.host.ways import Answer, Question, look

ADDRESSES = {"pi": "127.0.0.2", "server": "127.0.0.3"}


def free_ports(count: int) -> list[int]:
    """Ports that nobody has at any of the addresses."""
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            first, second = (stack.enter_context(socket.socket()) for _ in ADDRESSES)
            first.bind((ADDRESSES["pi"], 0))
            second.bind((ADDRESSES["server"], first.getsockname()[1]))
            found.append(first.getsockname()[1])
        return found


def question(own: str, ports: list[int], wait_s: float = 60, **changes: Any) -> Question:
    """What a host of two is asked, whose peer has the same ports."""
    [peer] = set(ADDRESSES) - {own}
    calls = [{"peer": peer, "address": ADDRESSES[peer], "port": port} for port in ports]
    callers = [f"{peer} {port}" for port in ports]
    asked = {"calls": calls, "callers": callers, "token": "token", "wait_s": wait_s}
    return Question(**{"host": own, "address": ADDRESSES[own], "ports": ports, **asked, **changes})


def both(make: Callable[[str], Question]) -> dict[str, Answer]:
    """Ask both hosts at the same time."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(ADDRESSES, pool.map(look, map(make, ADDRESSES)), strict=True))


def problems(answer: Answer) -> list[str | None]:
    """Why its calls failed."""
    return [call["problem"] for call in answer.calls]


def test_hosts_that_reach_one_another_do_not_wait_for_the_deadline() -> None:
    ports = free_ports(2)
    found = both(lambda host: question(host, ports, wait_s=3600))
    for answer in found.values():
        assert answer.ports == dict.fromkeys(ports)
        assert problems(answer) == [None, None]


def test_a_port_that_somebody_has_is_told_and_not_waited_for() -> None:
    [port] = free_ports(1)
    with socket.create_server((ADDRESSES["pi"], port)):
        answer = look(question("pi", [port], wait_s=3600, calls=[]))
    assert answer.ports == {port: "Address already in use"}


def test_an_address_of_another_host_is_told() -> None:
    [port] = free_ports(1)
    answer = look(question("pi", [port], address="192.0.2.77", calls=[]))
    assert answer.ports == {port: "Cannot assign requested address"}


def test_why_a_peer_is_not_reached_is_told_after_the_deadline() -> None:
    [port] = free_ports(1)
    assert problems(look(question("pi", [port], wait_s=0.2))) == ["Connection refused"]
    with socket.create_server((ADDRESSES["server"], port)):  # which never answers
        answer = look(question("pi", [port], wait_s=0.2))
    assert problems(answer) == ["no answer within 2 s"]


def test_only_who_knows_the_token_is_answered() -> None:
    [port] = free_ports(1)
    tokens = {"pi": "mine", "server": "another"}
    found = both(lambda host: question(host, [port], wait_s=1, token=tokens[host]))
    for answer in found.values():
        assert problems(answer) == ["something else answers there"]


def test_a_host_that_answers_at_the_address_of_another_is_named() -> None:
    [port] = free_ports(1)
    names = {"pi": "pi", "server": "twin"}
    found = both(lambda host: question(host, [port], wait_s=1, host=names[host]))
    assert problems(found["pi"]) == ["twin answers there"]
