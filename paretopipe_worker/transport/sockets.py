"""Find, check and count the TCP connections that a library opened in this process.

The kernel lists them in ``/proc/self/fd``. Duplicates of the sockets are kept, so that the kernel's
counts of a connection can still be read after the library has closed it.
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
"""A link shapes TCP whose ports are this or above at both ends (`shaping.egress`).
Libraries let the kernel choose their ports, by default from 32768 to 60999."""

_BYTES_SENT_AT = 200  # tcpi_bytes_sent, tcpi_bytes_retrans in struct tcp_info, since Linux 4.19
_ESTABLISHED, _LISTEN = 1, 10
_SIOCGIFADDR = 0x8915


def sent_bytes(link: socket.socket) -> tuple[int, int]:
    """Bytes that TCP sent on a connection, retransmissions included, and retransmitted bytes."""
    info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    sent, again = struct.unpack_from("=QQ", info, _BYTES_SENT_AT)
    return sent, again


def settings(outbound: socket.socket, inbound: socket.socket) -> dict[str, object]:
    """Congestion control and buffer sizes of a rank's two links, as the kernel reports them."""
    name = outbound.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return {
        "congestion_control": name.rstrip(b"\0").decode(),
        "send_buffer_bytes": outbound.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
        "receive_buffer_bytes": inbound.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
    }


def interface_of(address: str) -> str:
    """Name of the interface that has this address as its first one.

    A library that is given an interface's name uses the interface's first address.

    Raises
    ------
    TransportError
        When no interface has it as its first address.
    """
    if ip_address(address).version == 6:
        wanted = ip_address(address).packed.hex()
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            packed, *_, name = line.split()
            if packed == wanted:
                return name
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            # The kernel refuses this for interfaces without an IPv4 address.
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
    """The connections that a library opens while the ``with`` block runs.

    Parameters
    ----------
    address
        The rank's data address.
    store_port
        Port of the store in which the library's ranks meet. Connections with it are left out,
        since they carry no data.

    Raises
    ------
    TransportError
        At the end of the block, when a connection or listener is not at the data address, or has
        ports that a link's filters do not match.
    """

    def __init__(self, address: str, store_port: int) -> None:
        self._address = ip_address(address)
        self._store_port = store_port
        self._links: list[socket.socket] = []
        self._before: set[int] = set()

    def __enter__(self) -> Opened:
        """Remember the sockets that are open already."""
        for inode, link in tcp_sockets():
            self._before.add(inode)
            link.close()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Check and keep the connections that were opened since."""
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
                # A library may hold the same socket twice.
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
        """Refuse a socket off the data address, and one at ports that links do not shape."""
        own = link.getsockname()
        if _plain(own[0]) != self._address:
            raise TransportError(
                f"data would use {own[0]}:{own[1]} instead of the data address {self._address}; "
                "that must be the first address of its interface, and the route to the other hosts "
                "must use this interface"
            )
        lowest = min(_ports(link, connected))
        if lowest < SHAPED_FROM:
            raise TransportError(
                f"{own[0]}: the kernel chose port {lowest} for data, but links shape ports from "
                f"{SHAPED_FROM} only; net.ipv4.ip_local_port_range must begin there or above"
            )

    def counters(self) -> Counters:
        """Bytes that TCP has sent on all of the connections."""
        counted = [sent_bytes(link) for link in self._links]
        return Counters(sum(s for s, _ in counted), sum(again for _, again in counted), "sockets")

    def facts(self) -> dict[str, object]:
        """Number of the connections, and the settings of the first one."""
        if not self._links:
            return {"connections": 0}
        first = self._links[0]
        return {"connections": len(self._links), **settings(first, first)}

    def shut_down(self) -> None:
        """Shut the connections down, which wakes threads of the library that wait on them."""
        for link in self._links:
            # The other end may have closed it already.
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the duplicates."""
        while self._links:
            self._links.pop().close()


def tcp_sockets() -> Iterator[tuple[int, socket.socket]]:
    """Duplicates of this process's TCP sockets, each with its inode."""
    for descriptor in tuple(Path("/proc/self/fd").iterdir()):
        # The listing's own descriptor is closed by now, and others may be closed meanwhile.
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
    """An address without its zone; one of IPv4 that is mapped into IPv6 as one of IPv4."""
    parsed = ip_address(address.partition("%")[0])
    return getattr(parsed, "ipv4_mapped", None) or parsed
