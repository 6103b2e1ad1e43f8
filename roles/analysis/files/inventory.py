"""Print what an inventory says of its hosts and may be told: ``python inventory.py SOURCE...``.

Prints a JSON object, host name to variables, templates as they are written. All else, secrets among
it, stays in this process: on a command line of ours or in Ansible's output others could read it.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from analysis.provenance import VARIABLES, told


def read(sources: list[str]) -> dict[str, Any]:
    """What the inventory says of each host and may be told.

    Raises
    ------
    subprocess.CalledProcessError
        When Ansible cannot read it, as where a whole file is encrypted and the key was typed in.
    """
    command = [str(Path(sys.executable).with_name("ansible-inventory")), "--list"]
    command += [f"--inventory={source}" for source in sources]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    hosts = json.loads(done.stdout)["_meta"]["hostvars"]
    # A value that is encrypted is an object here, not a plain one.
    return {host: told(variables, VARIABLES) for host, variables in hosts.items()}


if __name__ == "__main__":
    try:
        print(json.dumps(read(sys.argv[1:])))
    except subprocess.CalledProcessError as error:
        sys.exit(f"ansible-inventory cannot list the inventory (status {error.returncode})")
