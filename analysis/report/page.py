"""``report.html``: a run in one file that opens anywhere, with no network and from nowhere else.

Names, reasons and warnings come from hosts and from people. The template escapes all of them, and
the script writes them as text. The policy in the page's head lets nothing be loaded, and only the
script and the style run that have the digests it names.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from analysis.report.values import encoded

ASSETS = Path(__file__).parent / "assets"

SCRIPTS = (
    *("base", "scales", "plot", "lines", "fronts", "table"),
    *("attainment", "breakdown", "networks", "load", "segments"),
    *("costs", "whatif", "map", "main"),
)
"""The parts of the page's script, in the order in which they need one another."""


def page(content: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The page.

    Parameters
    ----------
    content
        What the template shows.
    data
        What the script draws.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    style = (ASSETS / "style.css").read_text(encoding="utf-8")
    parts = [(ASSETS / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    script = "\n".join(['"use strict";', "{", *parts, "}"])
    template = environment.get_template("page.html")
    return template.render(
        content,
        style=Markup(style),
        script=Markup(script),
        data=Markup(embeddable(data)),
        style_digest=_digest(style),
        script_digest=_digest(script),
    )


def embeddable(data: Mapping[str, Any]) -> str:
    r"""JSON that no parser of HTML or of JavaScript takes for anything else.

    >>> embeddable({"name": "</script><!--&"})
    '{"name":"\\u003c/script\\u003e\\u003c!--\\u0026"}'
    """
    text = encoded(data).decode()
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _digest(text: str) -> str:
    """The digest by which a policy knows a script or a style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
