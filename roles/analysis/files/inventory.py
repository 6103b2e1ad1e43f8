"""Print the part of an inventory that may be shown: ``python inventory.py SOURCE...``.

It prints a JSON object that maps each host to its variables, with templates as they are written.
Everything else, such as secrets, stays in this process: others could read it on a command line or
in Ansible's output.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from analysis.provenance import VARIABLES, told


def read(sources: list[str]) -> dict[str, Any]:
    """Return those variables of each host that may be shown.

    Raises
    ------
    subprocess.CalledProcessError
        When Ansible cannot read the inventory, for example because a whole file is encrypted and
        its key was typed in.
    """
    command = [str(Path(sys.executable).with_name("ansible-inventory")), "--list"]
    command += [f"--inventory={source}" for source in sources]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    hosts = json.loads(done.stdout)["_meta"]["hostvars"]
    # An encrypted value is an object here, not a string, so it is not among what `told` returns.
    return {host: told(variables, VARIABLES) for host, variables in hosts.items()}


if __name__ == "__main__":
    try:
        print(json.dumps(read(sys.argv[1:])))
    except subprocess.CalledProcessError as error:
        sys.exit(f"ansible-inventory cannot list the inventory (status {error.returncode})")
