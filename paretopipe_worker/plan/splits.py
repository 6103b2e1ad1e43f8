"""The splits of a model that an experiment asks for: which they are, and how many."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from paretopipe_worker.cuts import FIRST, LAST, CutTable
from paretopipe_worker.plan.experiment import Experiment
from paretopipe_worker.plan.plan import PlanError
from paretopipe_worker.plan.strategy import Sample
from paretopipe_worker.usertext import listed, shown

Split: TypeAlias = tuple[str, ...]
"""The k-1 cuts of a pipeline of k stages, in the order in which the data reaches them."""


@dataclass(frozen=True)
class Choice:
    """The splits that ``splits.cuts`` stands for at a number of stages, without the endpoints.

    They are counted and drawn without being listed: of many cuts and stages there are billions.

    Parameters
    ----------
    cuts
        Number of cuts of a split.
    names
        Candidates in the order of the data: each choice of `cuts` different ones is a split.
    given
        Splits beside these.
    """

    cuts: int
    names: tuple[str, ...]
    given: tuple[Split, ...] = ()

    @property
    def count(self) -> int:
        """How many splits there are."""
        return math.comb(len(self.names), self.cuts) + len(self.given)

    def __iter__(self) -> Iterator[Split]:
        """All splits, in the order of the data."""
        yield from itertools.combinations(self.names, self.cuts)
        yield from self.given

    def drawn(self, number: int, seed: str) -> Iterator[Split]:
        """At most so many different splits, each as likely as any other, in the order of all."""
        if number >= self.count:
            yield from self
            return
        generator, picked = random.Random(seed), set[int]()
        while len(picked) < number:
            picked.add(generator.randrange(self.count))
        yield from map(self._split, sorted(picked))

    def _split(self, number: int) -> Split:
        """The split of this number in the order of all of them."""
        missing, chosen = self.cuts, []
        for place, name in enumerate(self.names, start=1):
            with_name = math.comb(len(self.names) - place, missing - 1) if missing else 0
            if number < with_name:
                chosen.append(name)
                missing -= 1
            else:
                number -= with_name
        return self.given[number] if missing else tuple(chosen)


def endpoints(stages: int) -> tuple[Split, ...]:
    """The splits that leave everything to a single host, by its rank.

    >>> endpoints(3)
    (('@first', '@first'), ('@last', '@first'), ('@last', '@last'))
    """
    return tuple((LAST,) * rank + (FIRST,) * (stages - 1 - rank) for rank in range(stages))


def choice(
    experiment: Experiment, table: CutTable, of_model: Sequence[CutTable], stages: int
) -> Choice:
    """What an experiment's splits of a model are chosen from.

    Parameters
    ----------
    table
        Cuts at the batch size that is asked about.
    of_model
        All cut tables of the model. Samples are drawn from cuts that all of them have, so that they
        are the same for every batch size.
    """
    cuts = experiment.splits.cuts
    allowed = set(table.names)
    if isinstance(experiment.strategy, Sample):
        allowed.intersection_update(*(each.names for each in of_model))
    if cuts != "all":
        allowed.intersection_update(entry for entry in cuts if isinstance(entry, str))
    names = tuple(name for name in table.names if name in allowed)
    ends = endpoints(stages)
    given = tuple(
        entry
        for entry in (() if cuts == "all" else cuts)
        if not isinstance(entry, str)
        and len(entry) == stages - 1
        and entry not in ends
        # Those that are choices of the candidates are among them already.
        and not (allowed.issuperset(entry) and len(set(entry)) == len(entry))
    )
    return Choice(stages - 1, names, given)


def chosen(
    experiment: Experiment, table: CutTable, of_model: Sequence[CutTable], stages: int
) -> tuple[Split, ...]:
    """The splits of a model to measure, endpoints included; arguments as of `choice`."""
    found = choice(experiment, table, of_model, stages)
    all_on_source, *others = endpoints(stages)
    strategy = experiment.strategy
    if isinstance(strategy, Sample):
        seed = f"{experiment.seed} splits {table.model} {stages}"
        return (all_on_source, *found.drawn(strategy.sample, seed), *others)
    return (all_on_source, *found, *others)


def check(experiment: Experiment, table: CutTable, stages: Collection[int]) -> None:
    """Refuse an entry of ``splits.cuts`` that makes no split of a model.

    Parameters
    ----------
    stages
        The numbers of stages of the placements.

    Raises
    ------
    PlanError
        When an entry names no cut, is not in the order of the data, or has another number of cuts
        than any placement needs.
    """
    entries = experiment.splits.cuts
    if entries == "all":
        return
    order = {name: number for number, name in enumerate((LAST, *table.names, FIRST))}
    for number, entry in enumerate(entries):
        path = f"splits.cuts[{number}]"
        if isinstance(entry, str):
            _check_name(path, entry, table, order)
            continue
        for place, name in enumerate(entry):
            _check_name(f"{path}[{place}]", name, table, order)
        for before, after in itertools.pairwise(entry):
            if order[before] > order[after]:
                raise PlanError(
                    f"{path}: in model '{table.model}' the data reaches {after!r} before "
                    f"{before!r}; allowed is the order {listed(tuple(order))}"
                )
        if len(entry) + 1 not in stages:
            raise PlanError(
                f"{path}: makes {len(entry) + 1} stages, and no placement has so many hosts; "
                f"allowed: splits into {' or '.join(map(str, sorted(stages)))} stages"
            )
    names = [name for name in entries if isinstance(name, str) and name not in (FIRST, LAST)]
    if 0 < len(names) < (least := min(stages) - 1):
        raise PlanError(
            f"splits.cuts: too few names to choose {least} cuts from, for {least + 1} stages; "
            f"allowed: at least {least} names, or lists of {least} names"
        )


def _check_name(path: str, name: str, table: CutTable, known: Collection[str]) -> None:
    """Refuse a name that is no cut of a model."""
    if name not in known:
        raise PlanError(
            f"{path}: model '{table.model}' has no {table.granularity} cut {shown(name)}; "
            f"allowed: {listed(table.names)}"
        )
