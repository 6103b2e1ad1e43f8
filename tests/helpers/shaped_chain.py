"""Hosts on one network, between each two of which a link's rates are kept, as in a pipeline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paretopipe_worker.link.profiles import LinkSpec
from tests.helpers.namespaces import joined
from tests.helpers.shaped_link import Shaped, unshaped_afterwards, without_netem


@dataclass
class Chain(Shaped):
    """Hosts whose links the kernel's htb shapes, whether or not there is netem."""

    def call(self, verb: str, *words: str, **options: Any) -> Any:
        """Run ``link VERB`` on a host; its JSON, or its error text where it failed."""
        return super().call(verb, *words, **options, **without_netem(self.folder / "bin"))


@contextmanager
def shaped_chain(folder: Path, link: LinkSpec, count: int) -> Iterator[Chain]:
    """So many joined hosts, between which a link's rates are kept by the kernel."""
    with joined(count) as hosts, unshaped_afterwards(hosts, folder):
        made = Chain(hosts, folder)
        for rank in range(count):
            ways = [
                {"peer": hosts[peer].address, "condition": asdict(condition)}
                for (sender, peer), condition in link.ways(count).items()
                if sender == rank
            ]
            asked = made.arguments(json.dumps({"name": link.name, "ways": ways}), rank=rank)
            done = made.call("apply", *asked, rank=rank)
            assert isinstance(done, dict) and done["engine"] == "htb", done
        yield made
