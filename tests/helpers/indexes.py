"""Indexes of small wheels on 127.0.0.1, as PyPI and PyTorch serve theirs."""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

JSON = "application/vnd.pypi.simple.v1+json"


def wheel(
    folder: Path, name: str, version: str, tag: str = "py3-none-any", requires: Sequence[str] = ()
) -> Path:
    """Write a wheel with one module, named after the package, that holds its version."""
    folder.mkdir(parents=True, exist_ok=True)
    module = name.replace("-", "_")
    path = folder / f"{module}-{version}-{tag}.whl"
    info = f"{module}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{module}.py", f"version = {version!r}\n")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        )
        archive.writestr(
            f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@dataclass
class Index:
    """A server of indexes: wheels in ``root/INDEX/NAME/`` are at ``url/INDEX/NAME/``.

    Attributes
    ----------
    sizes
        Where it tells how large a wheel is: ``json`` and ``head``, or neither.
    asked
        Method and path of every request.
    broken
        Name of a wheel that it lists and cannot send.
    """

    root: Path
    url: str
    sizes: frozenset[str]
    asked: list[str] = field(default_factory=list)
    broken: str = ""

    @property
    def fetched(self) -> list[str]:
        """Names of the wheels that were fetched whole or in part."""
        gets = [path for path in self.asked if path.startswith("GET") and path.endswith(".whl")]
        return [path.rpartition("/")[2] for path in gets]


@contextmanager
def serving(root: Path, *sizes: str) -> Iterator[Index]:
    """Serve the wheels below `root` until the block ends."""
    index = Index(root, "", frozenset(sizes))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, index))
    index.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield index
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Answers for an `Index`."""

    def __init__(self, index: Index, *words: object) -> None:
        self.index = index
        super().__init__(*words)

    def do_GET(self) -> None:
        """Send a wheel, or the page of a package."""
        self._answer(True)

    def do_HEAD(self) -> None:
        """Say how large a wheel is."""
        self._answer(False)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, whole: bool) -> None:
        index = self.index
        index.asked.append(f"{self.command} {self.path}")
        path = index.root / self.path.strip("/").replace("%2B", "+")
        if path.suffix == ".metadata":
            self._send(_metadata(path.with_suffix("")), "text/plain", whole=whole)
        elif path.is_file() and path.name != index.broken:
            if not whole and "head" not in index.sizes:
                self._send(b"", "text/plain", HTTPStatus.METHOD_NOT_ALLOWED)
            else:
                self._send(path.read_bytes(), "application/octet-stream", whole=whole)
        elif path.is_dir():
            files = [_told(file, "json" in index.sizes) for file in sorted(path.glob("*.whl"))]
            page = {"meta": {"api-version": "1.1"}, "name": path.name, "files": files}
            self._send(json.dumps(page).encode(), JSON, whole=whole)
        else:
            self._send(b"", "text/plain", HTTPStatus.NOT_FOUND)

    def _send(
        self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK, whole: bool = True
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if whole:
            self.wfile.write(body)


def _metadata(file: Path) -> bytes:
    """The metadata of a wheel (PEP 658), which is read without the wheel."""
    with zipfile.ZipFile(file) as archive:
        [name] = [each for each in archive.namelist() if each.endswith("/METADATA")]
        return archive.read(name)


def _told(file: Path, size: bool) -> dict[str, object]:
    """A wheel as an index lists it (PEP 691), with its size (PEP 700) or without."""
    content = file.read_bytes()
    found: dict[str, object] = {
        "filename": file.name,
        "url": file.name.replace("+", "%2B"),
        "core-metadata": True,
        "hashes": {"sha256": hashlib.sha256(content).hexdigest()},
    }
    return found | ({"size": len(content)} if size else {})


def fleet_of_wheels(root: Path) -> None:
    """Write what PyPI and PyTorch have of a small "torch", whose build on PyPI is for GPUs."""
    pypi, pytorch = root / "pypi", root / "pytorch"
    gpu = ["nvidia-cublas==1.0; platform_system == 'Linux'", "sympy"]
    for machine in ("x86_64", "aarch64"):
        tag = f"py3-none-manylinux_2_28_{machine}"
        wheel(pypi / "torch", "torch", "2.0", tag, gpu)
        wheel(pytorch / "cpu/torch", "torch", "2.0+cpu", tag, ["sympy", "filelock"])
        wheel(pytorch / "cu126/torch", "torch", "2.0+cu126", tag, gpu)
        wheel(pypi / "nvidia-cublas", "nvidia-cublas", "1.0", tag)
        wheel(pypi / "quick", "quick", "2.0", tag, ["onarm; platform_machine == 'aarch64'"])
    for name in ("sympy", "filelock", "onarm", "runner"):
        wheel(pypi / name, name, "1.0")
