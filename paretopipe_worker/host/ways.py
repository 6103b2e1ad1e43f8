"""The ways between hosts before a sweep: whether data ports are free, and whether peers reach them.

Each host listens at its data address for a few seconds and calls its peers meanwhile. A caller
sends the token of this check, and the listener answers with its own name: so an answer comes from
the host that was meant, and strangers learn nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from errno import ECONNREFUSED
from typing import Any

_CALL_S = 2.0
"""Seconds that one call may take, from its first packet to the answer."""

_AGAIN_S = 0.1
"""Seconds between two calls of the same port, at which nobody may listen yet."""

_MOST_BYTES = 256
"""Longest line that is read."""


@dataclass(frozen=True)
class Question:
    """What a host is to find out about its ways.

    Parameters
    ----------
    host
        Its name in the inventory, by which it answers.
    address
        Its data address.
    ports
        The data and control ports that it shall have.
    calls
        What it shall call: `peer`, `address` and `port` of each.
    callers
        ``PEER PORT`` for each of its ports that a peer shall call. It listens until all have.
    token
        What callers must know; without white space.
    wait_s
        Seconds after which it neither listens nor calls any more.
    """

    host: str
    address: str
    ports: Sequence[int]
    calls: Sequence[Mapping[str, Any]]
    callers: Sequence[str]
    token: str
    wait_s: float


@dataclass
class Answer:
    """By port why it cannot be had (None where it can), and for each call why it failed."""

    ports: dict[int, str | None] = field(default_factory=dict)
    calls: list[dict[str, Any]] = field(default_factory=list)


def look(question: Question) -> Answer:
    """Listen at the host's own ports and call its peers', until all is well or time is over."""
    return asyncio.run(_look(question))


async def _look(question: Question) -> Answer:
    answer = Answer()
    waiting = set(question.callers)
    until_s = asyncio.get_running_loop().time() + question.wait_s
    all_called = asyncio.Event()

    def called(caller: str) -> None:
        waiting.discard(caller)
        if not waiting:
            all_called.set()

    async with contextlib.AsyncExitStack() as stack:
        for port in question.ports:
            try:
                server = await _listening(question, port, called)
            except OSError as error:
                answer.ports[port] = os.strerror(error.errno or 0)
                waiting -= {caller for caller in waiting if caller.endswith(f" {port}")}
            else:
                answer.ports[port] = None
                stack.callback(server.close)
        called("")
        calls = [_reached(question, call, until_s) for call in question.calls]
        answer.calls = list(await asyncio.gather(*calls))
        # Those who call this host may have begun later.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until_s):
                await all_called.wait()
    return answer


async def _listening(
    question: Question, port: int, called: Callable[[str], None]
) -> asyncio.Server:
    """Answer whoever calls a port and knows the token, and note who that was."""

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(_CALL_S):
                token, caller = (await reader.readline()).decode().split()
                if hmac.compare_digest(token, question.token):
                    called(f"{caller} {port}")
                    writer.write(f"{question.host}\n".encode())
                    await writer.drain()
        writer.close()

    family = socket.AF_INET6 if ":" in question.address else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((question.address, port))
    except OSError:
        listener.close()
        raise
    return await asyncio.start_server(answered, sock=listener, limit=_MOST_BYTES)


async def _reached(question: Question, call: Mapping[str, Any], until_s: float) -> dict[str, Any]:
    """Call a port again and again until the peer answers; say what went wrong last."""
    loop = asyncio.get_running_loop()
    told = {"peer": call["peer"], "port": call["port"], "problem": os.strerror(ECONNREFUSED)}
    while True:
        problem = await _called(question, call)
        # A peer that does not listen yet, or no longer, says nothing about the way to it.
        if problem != os.strerror(ECONNREFUSED):
            told["problem"] = problem
        if told["problem"] is None or loop.time() >= until_s:
            return told
        await asyncio.sleep(_AGAIN_S)


async def _called(question: Question, call: Mapping[str, Any]) -> str | None:
    """Call a port once; return why the peer did not answer, or None."""
    try:
        async with asyncio.timeout(_CALL_S):
            reader, writer = await asyncio.open_connection(
                call["address"],
                call["port"],
                local_addr=(question.address, 0),
                limit=_MOST_BYTES,
            )
            with contextlib.closing(writer):
                writer.write(f"{question.token} {question.host}\n".encode())
                told = (await reader.readline()).decode(errors="replace").strip()
    except TimeoutError:
        return f"no answer within {_CALL_S:g} s"
    except ValueError:
        return "something else answers there"
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    return None if told == call["peer"] else f"{told or 'something else'} answers there"
