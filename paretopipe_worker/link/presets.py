"""Named link profiles, each with the source of its figures.

A preset is written like a profile in a spec (see `profiles`). Its forward way is the uplink: rank 0
is taken to be the device at the edge of the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A profile as a spec would write it, and the source of its figures."""

    profile: dict[str, Any]
    source: str


_PAPER = "'Where to Split?' (arXiv 2601.08025)"

PRESETS: dict[str, Preset] = {
    "lan": Preset(
        {"rate_mbit": 100},
        "100BASE-TX (IEEE 802.3u). The delay of a switch, far below 1 ms, is left out.",
    ),
    "wifi": Preset(
        {
            "forward": {
                "rate_mbit": 33, "delay_ms": 2, "jitter_ms": 2, "distribution": "pareto",
            },
            "back": {"rate_mbit": 40, "delay_ms": 2, "jitter_ms": 2, "distribution": "pareto"},
        },
        "Rates: 'Wi-Fi' of Apple's Network Link Conditioner. Delay: chosen so that the median "
        "round trip is the 3 ms of Sui et al., MobiSys 2016, doi:10.1145/2906388.2906393. Their "
        "tail is heavier (90th percentile 20 ms, 99th 250 ms).",
    ),
    "lte": Preset(
        {"rate_mbit": 12, "delay_ms": 35},
        "'LTE' of WebPageTest (12/12 Mbit/s, round trip 70 ms), "
        "github.com/WPO-Foundation/webpagetest, connectivity.ini.sample.",
    ),
    "5g": Preset(
        {
            "forward": {"rate_mbit": 21, "delay_ms": 23.5},
            "back": {"rate_mbit": 100, "delay_ms": 23.5},
        },
        "Medians of Ookla Speedtest: upload 21 Mbit/s and download 166 Mbit/s (all 5G, Q3 2021), "
        "the latter cut to 100 Mbit/s, up to which emulation is accurate; round trip 47 ms "
        "(T-Mobile US, first half of 2024).",
    ),
    "satellite": Preset(
        {
            "forward": {"rate_mbit": 3, "delay_ms": 279},
            "back": {"rate_mbit": 25, "delay_ms": 279},
        },
        "A geostationary hop: delay of RFC 2488, section 2 (at the edge of the view); rates as "
        "advertised for HughesNet Gen5.",
    ),
    "paper-delay200": Preset(
        {"forward": {"delay_ms": 200}},
        f"{_PAPER}: netem's delay on the Raspberry Pi's egress only, so 200 ms per round trip.",
    ),
    "paper-rate5": Preset({"rate_mbit": 5}, f"{_PAPER}: 5 Mbit/s, here in both directions."),
    "paper-delay200-rate5": Preset(
        {"forward": {"rate_mbit": 5, "delay_ms": 200}, "back": {"rate_mbit": 5}},
        f"{_PAPER}: both, the delay on the Raspberry Pi's egress only.",
    ),
}  # fmt: skip
