"""What all tests share: which are skipped, and that one that must run in CI may not be."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with files that take long: those that come last would run with an idle core beside."""

    def minutes(item: pytest.Item) -> float:
        slow = item.get_closest_marker("slow")
        return slow.kwargs.get("minutes", 0.1) if slow else 0

    items.sort(key=minutes, reverse=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip(f"torch {torch.__version__} finds no GPU")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, turn the skip of a test marked ``must_run`` into a failure."""
    report = yield
    if report.skipped and os.environ.get("CI") and item.get_closest_marker("must_run"):
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"{item.nodeid} must run in CI and was skipped: {reason}"
    return report
