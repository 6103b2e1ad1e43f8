"""Commands under a kernel of their own: User-Mode Linux, which has netem whatever this kernel has.

It boots in two seconds as an ordinary process of an ordinary user and sees this machine's files,
Python and all; what it writes is gone with it. System calls take 10 to 45 times as long as outside:
what runs inside tells what a kernel does, not how fast a model is.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent / "uml"
MEMORY = "512M"
PREFIX = "pptest-uml-"
"""Begins the name of the folder that each process of a kernel has on its command line."""

PROGRAMS = {"linux.uml": "user-mode-linux", "busybox": "busybox-static", "modprobe": "kmod"}
"""What must be installed, and the Debian package of each."""


@dataclass(frozen=True)
class Done:
    """Exit status of a command that ended, and what it wrote to stdout and stderr."""

    code: int
    output: str


def run(*command: str | Path, deadline_s: float) -> Done:
    """Boot, run a command as root in the working directory of this process, power off.

    Raises
    ------
    RuntimeError
        When the command did not end within the deadline, or the kernel did not boot or panicked;
        with all that was printed. No process is left behind in any case.
    """
    # Short and without blanks, wherever the project lies: its path is on the kernel's command line.
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        folder = Path(name)
        shutil.copy(SOURCES / "init.sh", folder)
        line = shlex.join(str(part) for part in command)
        (folder / "command").write_text(f"cd {shlex.quote(str(Path.cwd()))} && exec {line}\n")
        printed = _boot(folder, deadline_s)
    found = re.search(r"^uml: begin\n(.*)^uml: exit (\d+)$", printed, re.DOTALL | re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{line}: did not end within {deadline_s} s in User-Mode Linux, which "
                           f"printed:\n{printed}")  # fmt: skip
    return Done(int(found[2]), found[1])


def reason_without_uml() -> str:
    """Why User-Mode Linux cannot be used here; empty where it can."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    programs = {**PROGRAMS, "gcc": "gcc libc6-dev"} if _needs_shim() else PROGRAMS
    for program, package in programs.items():
        if shutil.which(program, path=path) is None:
            return f"{program} is not installed (package {package})"
    return ""


def _boot(folder: Path, deadline_s: float) -> str:
    """Boot with the init in `folder` and return what the console showed until the end."""
    command = [
        "linux.uml",
        *(f"mem={MEMORY}", "umid=test", f"uml_dir={folder}", "quiet"),
        *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"init={folder}/init.sh"),
        *("con=null", "con0=fd:0,fd:1", "con1=null"),
    ]
    # Its memory is a file in TMPDIR: a container's /dev/shm may be too small for it.
    environment = {**os.environ, "TMPDIR": str(folder)}
    if _needs_shim():
        environment["LD_PRELOAD"] = str(_shim(folder))
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # each process inside is one outside, and of this group
    )
    try:
        printed, _ = process.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        _end(process)
        printed, _ = process.communicate()
    finally:
        _end(process)
    return printed.decode(errors="replace").replace("\r\n", "\n")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and the processes it started; killed alone, it would leave them."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _needs_shim() -> bool:
    """Whether the processor has vector registers that this kernel panics on; see xsave.c."""
    return "amx_tile" in Path("/proc/cpuinfo").read_text().split()


def _shim(folder: Path) -> Path:
    """Compile what mends that."""
    library = folder / "xsave.so"
    source = SOURCES / "xsave.c"
    flags = ["-O2", "-Wall", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, "-o", library, source], check=True, timeout=60)
    return library
