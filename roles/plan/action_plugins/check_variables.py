"""Ansible action: refuse variables that nothing reads, and unusable values.

Ansible itself accepts any variable: with a misspelt one it would measure the default experiment, or
a host as it is not meant to be, and with a value of the wrong type it would fail on the hosts. This
action reads the roles' argument_specs for the variables that exist: their options, and the short
names, such as ``run``, from which options take their defaults. An inventory may have variables of
its own: those that its other values refer to, and any whose name begins with ``my_``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.constants import INTERNAL_STATIC_VARS  # type: ignore[import-untyped]
from ansible.module_utils.common.validation import (  # type: ignore[import-untyped]
    check_type_bool,
    check_type_float,
    check_type_int,
)
from ansible.parsing.vault import EncryptedString  # type: ignore[import-untyped]
from ansible.plugins.action import ActionBase  # type: ignore[import-untyped]
from ansible.utils.vars import load_extra_vars  # type: ignore[import-untyped]

SPEC: dict[str, dict[str, Any]] = {
    "roles": {"type": "path", "required": True},
    "hosts": {"type": "list", "elements": "str", "required": True},
    "host_variables": {"type": "list", "elements": "str", "required": True},
}
ANSIBLES = "ansible_"
"""Prefix of the variables that Ansible itself reads."""
OWN = "my_"
"""Prefix of the variables that a person's inventory has for itself."""

_SHORT = re.compile(r"^{{ (\w+) \| default\(")
_KINDS = {
    "bool": (check_type_bool, "true or false"),
    "float": (check_type_float, "a number"),
    "int": (check_type_int, "a whole number"),
}
_SHOWN = 60
_WORD = re.compile(r"[A-Za-z_]\w*")


class ActionModule(ActionBase):  # type: ignore[misc]
    """Check the variables that were given, on the controller."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Fail with a line for each variable that is refused."""
        super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(argument_spec=SPEC)
        short, long = options(Path(given["roles"]))
        extra = load_extra_vars(self._loader)
        said = [*unknown(extra, short, long, given["host_variables"])]
        said += wrong("-e", extra, {**long, **short})
        hosts = (task_vars or {})["hostvars"]
        allowed = {*short, *long, *given["host_variables"], *extra}
        stray: dict[str, list[str]] = {}
        for host in given["hosts"]:
            own = {name: value for name, value in hosts.raw_get(host).items() if name not in extra}
            said += wrong(f"{host}:", own, {**long, **short})
            for line in misspelt(own, allowed):
                stray.setdefault(line, []).append(host)
        said += [f"{', '.join(names)}: {line}" for line, names in stray.items()]
        return {"changed": False, "failed": bool(said), "msg": "\n".join(said)}


def options(roles: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the types of all variables by name: of the short names, and of the roles' options."""
    short, long = {}, {}
    for path in sorted(roles.glob("*/meta/argument_specs.yml")):
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].values():
            for name, option in entry.get("options", {}).items():
                long[name] = option["type"]
                found = _SHORT.match(str(option.get("default", "")))
                if found and not found[1].startswith(ANSIBLES):
                    short[found[1]] = option["type"]
    # An option may take its default from one of another role.
    return {name: kind for name, kind in short.items() if name not in long}, long


def unknown(
    extra: Mapping[str, Any], short: Mapping[str, str], long: Mapping[str, str], hosts: list[str]
) -> Iterator[str]:
    """Refuse variables given by ``-e`` that nothing reads: a line each, with those allowed."""
    usual = [*short, *hosts]
    for name in extra:
        if name in usual or name in long or name.startswith(ANSIBLES):
            continue
        near = difflib.get_close_matches(name, [*usual, *long], n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        yield (
            f"-e {name[:_SHOWN]}: nothing reads a variable of this name{hint}; allowed: "
            f"{', '.join(usual)}, and those of roles/*/README.md. A variable that only your "
            "inventory reads belongs in the inventory"
        )


def misspelt(values: Mapping[str, Any], allowed: set[str]) -> Iterator[str]:
    """Refuse variables of a host in the inventory that nothing reads: a line each."""
    used = {
        word
        for value in values.values()
        for text in _texts(value)
        if "{{" in text or "{%" in text
        for word in _WORD.findall(text)
    }
    for name in values:
        if name in allowed | used | INTERNAL_STATIC_VARS or name.startswith((ANSIBLES, OWN)):
            continue
        near = difflib.get_close_matches(name, allowed, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        yield (
            f"{name[:_SHOWN]}: nothing reads this variable of the inventory{hint}. Allowed are "
            "those of inventory/lab and of roles/*/README.md, those that another value of the "
            f"inventory refers to, and any whose name begins with {OWN}"
        )


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value. What is encrypted is none, and is not decrypted for this."""
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value


def wrong(where: str, values: Mapping[str, Any], kinds: Mapping[str, str]) -> Iterator[str]:
    """Refuse values that do not have the type of their option: a line each."""
    for name, kind in kinds.items():
        value = values.get(name)
        # What is encrypted is left to the role that takes it, since errors here show values.
        if kind not in _KINDS or value is None or isinstance(value, EncryptedString):
            continue
        if "{{" in str(value):
            continue
        check, allowed = _KINDS[kind]
        try:
            check(value)
        except TypeError:
            text = repr(value)
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
            yield f"{where} {name}: must be {allowed}; got {shown}"
