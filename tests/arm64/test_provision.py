"""An arm64 host is provisioned as a Raspberry Pi is, by emulated processors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.arm64 import arm64_host, reason_without_arm64
from tests.helpers.labs import throwaway
from tests.helpers.sweeps import Checkout, Done

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(reason_without_arm64()), reason=reason_without_arm64()),
]


@dataclass(frozen=True)
class Place:
    """A checkout, and the folder of the host's root."""

    copy: Checkout
    folder: Path

    def provision(self, cpu: str) -> Done:
        """Provision the host, whose processor is `cpu`."""
        with arm64_host(self.folder, cpu) as inventory:
            self.copy.write("hosts.yml", inventory)
            playbook = (".venv/bin/ansible-playbook", "playbooks/provision.yml")
            return self.copy.run(*playbook, "-i", "hosts.yml", deadline_s=800)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("arm64")
    with throwaway(folder / "checkout") as copy:
        yield Place(copy, folder)


def test_a_host_is_provisioned_and_a_second_time_nothing_changes(place: Place) -> None:
    # Torch is imported, and computes a convolution and a matrix product, each in the first run.
    first = place.provision("cortex-a76").succeeded()
    assert "torch on pi 2.9.1" in first.output
    second = place.provision("cortex-a76").succeeded()
    assert " changed=0 " in second.output.partition("PLAY RECAP")[2], second.output


def test_torch_computes_on_the_processor_of_a_pi_4(place: Place) -> None:
    # What qemu emulates lacks the same instructions: neither half precision nor dot products. The
    # host may take it for the processor of before, so what passed on that one is forgotten first.
    (place.folder / "root/root/.paretopipe/preflight.json").unlink()
    done = place.provision("cortex-a57").succeeded()
    assert "torch on pi 2.9.1" in done.output
