"""An arm64 host for tests: Debian's files for that architecture, which qemu runs on this machine.

Its root is a folder. A process in namespaces of its own registers qemu there as what runs arm64
programs (binfmt_misc is kept by user namespace since Linux 6.7), so nothing of that is left when
the process has ended. Ansible enters by its chroot connection.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

QEMU = "qemu-aarch64-static"
RELEASE = "bookworm"
PYTHON = "3.11"
"""The release's Python, for which packages are fetched."""
DEBIAN = (
    *("dash", "coreutils", "bash", "libc-bin", "base-files", "base-passwd", "findutils", "grep"),
    *("sed", "util-linux", "procps", "iproute2", "python3", "libstdc++6", "libgomp1"),
)
PACKAGES = (
    # The newest torch whose arm64 build on the public index is for processors and not for GPUs is
    # older than the pinned one. What it requires is named here, since pip would judge markers by
    # this machine and fetch gigabytes of CUDA.
    *("torch==2.9.1", "filelock", "fsspec", "jinja2", "MarkupSafe", "mpmath", "networkx", "sympy"),
    *("typing_extensions", "numpy", "orjson", "pydantic==2.14.3", "pydantic_core==2.50.4"),
    *("annotated_types", "typing_inspection", "PyYAML", "safetensors"),
)
_ELF = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"

HOLD = r"""
echo here; read go
mount -t proc proc /proc
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
printf '%s' "$1" >/proc/sys/fs/binfmt_misc/register
mount --rbind /dev "$2/dev"
mount -t proc proc "$2/proc"
echo up
exec sleep infinity
"""

ENTER = """\
#!/bin/sh
export QEMU_CPU={cpu} PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec {nsenter} --target {pid} --user --mount --pid -- {chroot} "$@"
"""


def reason_without_arm64() -> str:
    """Why no arm64 host can be made here; empty where it seems that one can."""
    if os.geteuid() != 0:
        return "an arm64 root is made as root"
    missing = [name for name in (QEMU, "mmdebstrap") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (packages qemu-user-static, mmdebstrap)"
    release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    return "" if release >= (6, 7) else "binfmt_misc is kept by user namespace since Linux 6.7"


@contextmanager
def arm64_host(folder: Path, cpu: str) -> Iterator[str]:
    """Make a host; yields an inventory of it alone.

    Parameters
    ----------
    cpu
        The processor that qemu emulates, such as ``cortex-a57``.
    """
    root = folder / "root"
    if not root.exists():
        _unpack(root)
    register = f":arm64:M::{_ELF}:{_MASK}:{shutil.which(QEMU)}:FP"
    spaces = ("--user", "--mount", "--pid", "--fork", "--kill-child")
    command = ["unshare", *spaces, "sh", "-euc", HOLD, "hold", register, str(root)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        try:
            assert holder.stdout.readline() == "here\n"
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{holder.pid}/{name}").write_text("0 0 65536\n")
            holder.stdin.write("go\n")
            holder.stdin.flush()
            assert holder.stdout.readline() == "up\n"
            children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
            enter = folder / f"enter-{cpu}"
            tools = {name: shutil.which(name) for name in ("nsenter", "chroot")}
            enter.write_text(ENTER.format(pid=children[0], cpu=cpu, **tools))
            enter.chmod(0o755)
            yield _inventory(root, enter)
        finally:
            holder.kill()


def _unpack(root: Path) -> None:
    """Unpack Debian's packages and those of Python; their scripts are not run, which takes long."""
    debian = ("mmdebstrap", "--mode=root", "--skip=check/qemu", "--architectures=arm64")
    _run(*debian, "--variant=extract", f"--include={','.join(DEBIAN)}", RELEASE, str(root))
    for name in ("passwd", "group"):
        shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / f"etc/{name}")
    versions = ("manylinux2014", "manylinux_2_17", "manylinux_2_27", "manylinux_2_28")
    kinds = [f"--platform={version}_aarch64" for version in versions]
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *kinds)
    target = root / "usr/lib/python3/dist-packages"
    wanted = (f"--python-version={PYTHON}", "--only-binary=:all:", f"--target={target}")
    _run(*pip, *wanted, *PACKAGES)


def _inventory(root: Path, enter: Path) -> str:
    """An inventory of the host."""
    variables = {
        "ansible_connection": "community.general.chroot",
        "ansible_host": str(root),
        "ansible_chroot_exe": str(enter),
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_become": False,
        "data_address": "127.0.0.1",
        "worker_python": "/usr/bin/python3",
        "worker_governor": "",
    }
    return yaml.safe_dump({"all": {"children": {"stages": {"hosts": {"pi": variables}}}}})


def _run(*command: str) -> None:
    """Run a command, showing what it says when it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stderr[-3000:]}"
