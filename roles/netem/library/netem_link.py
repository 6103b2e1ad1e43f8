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
  - Calls the worker package on the host, by what root runs of it, which does the work.
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
    description:
      - The lease file, which is renewed before the link is shaped. While a run of another lease has
        the host, the link is neither shaped nor put back.
    type: path
  lease_s:
    description: Seconds after the last renewal at which the host puts the link back itself.
    type: float
  state_dir:
    description: Folder on the host that keeps the state of the link from before.
    type: path
    required: true
  user:
    description: Id of the user who renews the lease; by default the one who runs the module.
    type: int
  command:
    description: The beginning of the command by which root runs the worker package.
    type: list
    elements: str
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
    command: [/usr/bin/python3, -I, -S, /opt/paretopipe/paretopipe.pyz]
- name: Put the link back as it was
  netem_link:
    state: restored
    state_dir: /run/paretopipe
    command: [/usr/bin/python3, -I, -S, /opt/paretopipe/paretopipe.pyz]
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
    "user": {"type": "int"},
    "command": {"type": "list", "elements": "str", "required": True},
}
NEEDED = ("profile", "address", "ports", "lease", "lease_s")


def arguments(given: dict[str, Any], check_mode: bool) -> list[str]:
    """Return the worker's command line for these module arguments; the profile goes to stdin."""
    command = [*given["command"], "link"]
    if given["state"] == "restored":
        command += ["restore"]
        command += ["--lease", given["lease"]] if given["lease"] else []
    else:
        command += ["apply", "--profile", "-"]
        command += ["--tcp", json.dumps(given["tcp"])] if given["tcp"] else []
        command += ["--address", given["address"]]
        command += ["--ports", ",".join(str(port) for port in given["ports"])]
        command += ["--lease", given["lease"], "--lease-s", str(given["lease_s"])]
        command += ["--emulate"] if given["emulate"] else []
    command += ["--state-dir", given["state_dir"]]
    return [*command, "--check"] if check_mode else command


def renew(lease: str, user: int | None) -> str:
    """Renew a lease as the user to whom it belongs; return why that failed, or an empty text.

    The lease is in the user's folder, where a link may lead anywhere: root must not follow it.
    """
    child = os.fork()
    if child == 0:
        try:
            if user is not None and user != os.geteuid():
                os.setgroups([])
                os.setresuid(user, user, user)
            os.utime(lease)
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return f"{lease}: the lease cannot be renewed: {os.strerror(number)}" if number else ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        SPEC, required_if=[("state", "shaped", NEEDED)], supports_check_mode=True
    )
    given = module.params
    renewed = given["state"] == "shaped" and not module.check_mode
    if renewed and (failed := renew(given["lease"], given["user"])):
        module.fail_json(msg=failed)
    command = arguments(given, module.check_mode)
    # The profile goes through standard input: a trace may be longer than an argument can be.
    profile = json.dumps(given["profile"])
    code, output, errors = module.run_command(command, data=profile)
    if code != 0:
        module.fail_json(msg=errors.strip() or output.strip(), rc=code, cmd=command)
    result = json.loads(output)
    diff = {key: f"{result[key].rstrip()}\n" for key in ("before", "after")}
    kept = {key: result[key] for key in ("changed", "commands")}
    engine = result.get("engine", "none")
    module.exit_json(**kept, diff=diff, engine=engine, state_dir=given["state_dir"])


if __name__ == "__main__":
    main()
