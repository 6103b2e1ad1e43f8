"""TCP connections of this process that a library opened: found, checked, counted.

The kernel lists them in ``/proc/self/fd``. Duplicates of them are kept, so that what it counted for
a connection outlives the library's closing it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from paretopipe_worker.transport.api import Counters, TransportError

SHAPED_FROM = 32768
"""Links shape TCP with ports from here on at both ends (`paretopipe_worker.shaping.egress`), since
libraries let the kernel choose theirs, by default from 32768 to 60999."""

_BYTES_SENT_AT = 200  # tcpi_bytes_sent, tcpi_bytes_retrans in struct tcp_info, since Linux 4.19
_ESTABLISHED, _LISTEN = 1, 10
_SIOCGIFADDR = 0x8915


def sent_bytes(link: socket.socket) -> tuple[int, int]:
    """Bytes TCP sent on a connection, retransmissions included, and how many of them were those."""
    info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    sent, again = struct.unpack_from("=QQ", info, _BYTES_SENT_AT)
    return sent, again


def interface_of(address: str) -> str:
    """Name of the interface whose first address this is: libraries that take a name take that one.

    Raises
    ------
    TransportError
        When there is none.
    """
    if ip_address(address).version == 6:
        wanted = ip_address(address).packed.hex()
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            packed, *_, name = line.split()
            if packed == wanted:
                return name
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            # Interfaces without an IPv4 address refuse.
            with contextlib.suppress(OSError):
                asked = struct.pack("16s24x", name.encode())
                answer = fcntl.ioctl(asking, _SIOCGIFADDR, asked)
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    raise TransportError(
        f"{address} is not the first address of an interface of this host; data_address must be "
        "one for this backend"
    )


class Opened:
    """The connections that a library opens while the block runs.

    Those of `store_port` are not its own: the library's ranks meet there.

    Raises
    ------
    TransportError
        At the end of the block, when a connection or listener leaves the data address, or has
        ports that a link's filters do not match.
    """

    def __init__(self, address: str, store_port: int) -> None:
        self._address = ip_address(address)
        self._store_port = store_port
        self._links: list[socket.socket] = []
        self._before: set[int] = set()

    def __enter__(self) -> Opened:
        """Note what is open already."""
        for inode, link in tcp_sockets():
            self._before.add(inode)
            link.close()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Take what has been opened since."""
        if kind is not None:
            return
        try:
            for inode, link in tcp_sockets():
                state = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
                connected = state == _ESTABLISHED
                if (
                    inode in self._before
                    or not (connected or state == _LISTEN)
                    or self._store_port in _ports(link, connected)
                ):
                    link.close()
                    continue
                # A library may hold one of them twice.
                self._before.add(inode)
                self._links.append(link)
                self._check(link, connected=connected)
                if not connected:
                    self._links.remove(link)
                    link.close()
        except BaseException:
            self.close()
            raise

    def _check(self, link: socket.socket, *, connected: bool) -> None:
        """See that a socket is at the data address, and a connection at ports that are shaped."""
        own = link.getsockname()
        if _plain(own[0]) != self._address:
            raise TransportError(
                f"data would take {own[0]}:{own[1]}, not the data address {self._address}; its "
                "interface must have it as its first address, and the way to the others go there"
            )
        lowest = min(_ports(link, connected))
        if lowest < SHAPED_FROM:
            raise TransportError(
                f"{own[0]}: the kernel chose port {lowest} for data, and links shape from "
                f"{SHAPED_FROM}; net.ipv4.ip_local_port_range must begin there or above"
            )

    def counters(self) -> Counters:
        """What TCP has sent on all of them."""
        counted = [sent_bytes(link) for link in self._links]
        return Counters(sum(s for s, _ in counted), sum(again for _, again in counted), "sockets")

    def facts(self) -> dict[str, object]:
        """Congestion control and buffer sizes of the first, as the kernel gave them."""
        if not self._links:
            return {"connections": 0}
        first = self._links[0]
        name = first.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        return {
            "connections": len(self._links),
            "congestion_control": name.rstrip(b"\0").decode(),
            "send_buffer_bytes": first.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
            "receive_buffer_bytes": first.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
        }

    def shut_down(self) -> None:
        """End the connections, whoever holds them: threads that wait on them are woken."""
        for link in self._links:
            # The other end may have been quicker.
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the duplicates."""
        while self._links:
            self._links.pop().close()


def tcp_sockets() -> Iterator[tuple[int, socket.socket]]:
    """Duplicates of this process's TCP sockets, each with its inode."""
    for descriptor in tuple(Path("/proc/self/fd").iterdir()):
        # The descriptor of the listing itself is gone by now, others may go meanwhile.
        with contextlib.suppress(OSError):
            if not str(descriptor.readlink()).startswith("socket:"):
                continue
            link = socket.socket(fileno=os.dup(int(descriptor.name)))
            if link.type == socket.SOCK_STREAM and link.family in (socket.AF_INET, socket.AF_INET6):
                yield os.fstat(link.fileno()).st_ino, link
            else:
                link.close()


def _ports(link: socket.socket, connected: bool) -> tuple[int, ...]:
    """Ports of a connection's ends, or of a listener."""
    own = int(link.getsockname()[1])
    return (own, int(link.getpeername()[1])) if connected else (own,)


def _plain(address: str) -> object:
    """An address, one of IPv4 that is written as IPv6 as what it is."""
    parsed = ip_address(address.partition("%")[0])
    return getattr(parsed, "ipv4_mapped", None) or parsed
