"""Which builds of torch a host can run, best first.

PyTorch's own indexes have a folder for each build: ``cpu``, and ``cuXYZ`` for CUDA XY.Z. What PyPI
has for Linux is a CUDA build, on arm64 as on x86-64, and requires gigabytes of NVIDIA's libraries.
"""

from __future__ import annotations

from dataclasses import dataclass

from paretopipe_worker.wheels.needs import CPU, Described, WheelsError, number


@dataclass(frozen=True)
class Cuda:
    """A CUDA build: the oldest driver that runs it, and the GPUs that it has code for.

    Attributes
    ----------
    name
        Name of its folder.
    driver
        Version of the NVIDIA driver from which on it runs.
    capabilities
        First and last compute capability; the last may be open.
    """

    name: str
    driver: str
    capabilities: tuple[str, str | None]

    def runs(self, driver: str, capability: str | None) -> bool:
        """Whether it runs with a driver, on a GPU whose capability may be unknown."""
        first, last = self.capabilities
        if number(driver) < number(self.driver):
            return False
        if capability is None:
            return True
        fits = number(first) <= number(capability)
        return fits and (last is None or number(capability) <= number(last))


CUDA = (
    Cuda("cu130", "580", ("7.5", None)),
    Cuda("cu129", "525.60.13", ("7.5", "12.1")),
    Cuda("cu126", "525.60.13", ("5.0", "9.0")),
)
"""Builds of the version of torch in requirements-worker.txt, in the order of preference.

Drivers: "Minor Version Compatibility" in NVIDIA's CUDA Compatibility guide (CUDA 13.x needs 580,
CUDA 12.x needs 525), exact numbers in the CUDA Toolkit's release notes, table 2. Capabilities: the
release compatibility matrix in PyTorch's RELEASE.md. cu130 comes first since it is the build that
PyTorch calls stable."""


def fitting(described: Described, device: str) -> tuple[str, ...]:
    """Builds of torch that a host can run, best first: the index may lack the first.

    Parameters
    ----------
    described
        What the host is.
    device
        What its stages run on by the inventory: ``cpu``, or a GPU, as ``cuda:0``.

    Raises
    ------
    WheelsError
        Where a GPU is asked for that is not there, or that no build can use.
    """
    if not device.startswith("cuda"):
        return (CPU,)
    if described.driver is None:
        raise WheelsError(
            f"the inventory gives it device {device}, and nvidia-smi finds no GPU on it. Install "
            "NVIDIA's driver, or set device: cpu"
        )
    fits = tuple(build.name for build in CUDA if build.runs(described.driver, described.capability))
    if not fits:
        known = ", ".join(
            f"{b.name} needs driver {b.driver} and compute capability {b.capabilities[0]}"
            f" to {b.capabilities[1] or 'the newest'}"
            for b in CUDA
        )
        raise WheelsError(
            f"no CUDA build of torch runs with its driver {described.driver} on a GPU of compute "
            f"capability {described.capability or 'unknown'} ({known}). Install a newer driver, or "
            "name a Python that has torch as worker_python, or set device: cpu"
        )
    return fits
