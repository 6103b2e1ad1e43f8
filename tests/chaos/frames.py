"""Ethernet frames that were harmed: with a wrong checksum, or with one that was put right."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

Harm = Callable[[bytearray, Random], bytes | None]
"""Makes of a frame and a source of chance the harmed one; None where it is lost."""

_ETHERNET, _TYPE, _PROTOCOL = 14, 12, 23
_IPV4, _TCP = b"\x08\x00", 6


def payload_of(frame: bytes) -> range:
    """Where the bytes that TCP carries lie in a frame; empty where it carries none."""
    if len(frame) < 54 or frame[_TYPE:_ETHERNET] != _IPV4 or frame[_PROTOCOL] != _TCP:
        return range(0)
    segment = _ETHERNET + 4 * (frame[_ETHERNET] & 15)
    end = _ETHERNET + int.from_bytes(frame[16:18], "big")
    return range(segment + 4 * (frame[segment + 12] >> 4), min(end, len(frame)))


def lost(frame: bytearray, drawn: Random) -> None:
    """Nothing: the frame is lost."""


def flipped(frame: bytearray, drawn: Random) -> bytes:
    """The frame with a bit of its payload flipped, which its checksum shows."""
    frame[drawn.choice(payload_of(frame))] ^= 1 << drawn.randrange(8)
    return bytes(frame)


def forged(frame: bytearray, drawn: Random) -> bytes:
    """The frame with a byte of its payload changed, and its checksum put right."""
    frame[drawn.choice(payload_of(frame))] ^= drawn.randint(1, 255)
    segment = _ETHERNET + 4 * (frame[_ETHERNET] & 15)
    end = payload_of(frame).stop
    place = segment + 16
    frame[place : place + 2] = b"\0\0"
    # RFC 9293, section 3.1: the sum includes addresses, protocol and length.
    summed = frame[26:34] + bytes([0, _TCP]) + (end - segment).to_bytes(2, "big")
    frame[place : place + 2] = checksum(bytes(summed + frame[segment:end])).to_bytes(2, "big")
    return bytes(frame)


def checksum(content: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = content + bytes(len(content) % 2)
    total = sum(int.from_bytes(padded[n : n + 2], "big") for n in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
