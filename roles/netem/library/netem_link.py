"""Ansible module: shape a host's link, or put it back, with the worker package on the host."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]

DOCUMENTATION = """
module: netem_link
short_description: Shape the link between stages, or put it back
description:
  - Calls C(python -m paretopipe_worker link) on the host, which does the work.
  - Supports check and diff mode. A second call with the same arguments changes nothing.
author: The ParetoPipe developers
options:
  state:
    description: Whether to shape the link or to put it back as it was.
    type: str
    choices: [shaped, restored]
    default: shaped
  profile:
    description:
      - Link profile with C(name) and C(ways), the conditions of what the host sends to each peer
        (see C(paretopipe_worker/link/conditions.py)). Without ways the link stays unshaped. A
        profile that follows a trace also has a C(timetable).
    type: dict
  tcp:
    description: TCP's settings while the link is shaped; if empty, they are left alone.
    type: dict
    default: {}
  address:
    description: The host's own data address; the interface that has it is shaped.
    type: str
  ports:
    description: Data ports of the stages.
    type: list
    elements: int
  emulate:
    description: Whether a relay may shape if the kernel has no netem and htb is not enough.
    type: bool
    default: false
  lease:
    description: The lease file, which is renewed.
    type: path
  lease_s:
    description: Seconds after the last renewal at which the host puts the link back itself.
    type: float
  state_dir:
    description: Folder on the host that keeps the state of the link from before.
    type: path
    required: true
  python:
    description: The worker's Python.
    type: path
    required: true
  site:
    description: Folder the worker package is installed in.
    type: path
    required: true
"""

EXAMPLES = """
- name: Delay what goes to another stage
  netem_link:
    profile:
      name: far
      ways: [{peer: 192.0.2.20, condition: {delay_ms: 200, rate_mbit: 5}}]
    tcp: {congestion_control: cubic}
    address: 192.0.2.11
    ports: [29400]
    lease: /home/pi/.paretopipe/runs/first/lease
    lease_s: 30
    state_dir: /run/paretopipe
    python: /usr/bin/python3
    site: /home/pi/.paretopipe/site
- name: Put the link back as it was
  netem_link:
    state: restored
    state_dir: /run/paretopipe
    python: /usr/bin/python3
    site: /home/pi/.paretopipe/site
"""

RETURN = """
commands:
  description: The commands that were run, or would be in check mode.
  returned: success
  type: list
engine:
  description: Who shapes, C(netem), C(htb) or C(relay); C(none) if nobody does.
  returned: success
  type: str
state_dir:
  description: Folder on the host that says how the link is shaped.
  returned: success
  type: str
"""

SPEC: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "choices": ["shaped", "restored"], "default": "shaped"},
    "profile": {"type": "dict"},
    "tcp": {"type": "dict", "default": {}},
    "address": {"type": "str"},
    "ports": {"type": "list", "elements": "int"},
    "emulate": {"type": "bool", "default": False},
    "lease": {"type": "path"},
    "lease_s": {"type": "float"},
    "state_dir": {"type": "path", "required": True},
    "python": {"type": "path", "required": True},
    "site": {"type": "path", "required": True},
}
NEEDED = ("profile", "address", "ports", "lease", "lease_s")


def arguments(given: dict[str, Any], check_mode: bool) -> list[str]:
    """Return the worker's command line for these module arguments; the profile goes to stdin."""
    command = [given["python"], "-m", "paretopipe_worker", "link"]
    if given["state"] == "restored":
        command += ["restore"]
    else:
        command += ["apply", "--profile", "-"]
        command += ["--tcp", json.dumps(given["tcp"])] if given["tcp"] else []
        command += ["--address", given["address"]]
        command += ["--ports", ",".join(str(port) for port in given["ports"])]
        command += ["--lease", given["lease"], "--lease-s", str(given["lease_s"])]
        command += ["--emulate"] if given["emulate"] else []
    command += ["--state-dir", given["state_dir"]]
    return [*command, "--check"] if check_mode else command


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        SPEC, required_if=[("state", "shaped", NEEDED)], supports_check_mode=True
    )
    given = module.params
    if given["lease"] and not module.check_mode:
        os.utime(given["lease"])
    # Root must not leave bytecode files in the user's folder.
    environment = {"PYTHONPATH": given["site"], "PYTHONDONTWRITEBYTECODE": "1"}
    command = arguments(given, module.check_mode)
    # The profile goes through standard input: a trace may be longer than an argument can be.
    profile = json.dumps(given["profile"])
    code, output, errors = module.run_command(command, environ_update=environment, data=profile)
    if code != 0:
        module.fail_json(msg=errors.strip() or output.strip(), rc=code, cmd=command)
    result = json.loads(output)
    diff = {key: f"{result[key].rstrip()}\n" for key in ("before", "after")}
    kept = {key: result[key] for key in ("changed", "commands")}
    engine = result.get("engine", "none")
    module.exit_json(**kept, diff=diff, engine=engine, state_dir=given["state_dir"])


if __name__ == "__main__":
    main()
