"""How splits and placements are written."""

from __future__ import annotations

import doctest

from paretopipe_worker.plan import labels


def test_the_examples_are_true() -> None:
    assert doctest.testmod(labels).failed == 0


def test_a_placements_label_names_its_hosts_again() -> None:
    hosts = ("pi", "nuc", "server")
    assert labels.hosts_of(labels.placement_label(hosts)) == hosts


def test_the_cuts_of_a_splits_label_are_those_it_was_made_of() -> None:
    cuts = ("@last", "features.3", "features.3")
    assert labels.cuts_of(labels.split_label(cuts)) == cuts
