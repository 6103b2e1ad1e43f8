"""The answer of a whole run in one sentence, of verdicts that are known."""

from __future__ import annotations

from typing import Any

from analysis.answers.splitting import LATENCY, THROUGHPUT, UNKNOWN
from analysis.answers.summary import sentence, short_titles
from analysis.tables.front import GROUP
from paretopipe_worker.plan.labels import USUAL

USUALLY = dict.fromkeys(GROUP, "x") | USUAL | {"model": "m", "batch": 1, "window": 3}


def verdict(link: str, **gains: tuple[str, float]) -> dict[str, Any]:
    """The verdict on one link; of each objective whether it is better, and how many times."""
    known = {
        {"latency": LATENCY, "throughput": THROUGHPUT}[name]: {
            "verdict": told,
            "ratio": ratio,
            "probability": 0.97,
            "clause": f"{name} times {ratio}",
        }
        for name, (told, ratio) in gains.items()
    }
    text = "said of it" if known else f"{UNKNOWN}: nothing was measured"
    return USUALLY | {"link": link, "gains": known, "text": text}


def test_the_case_in_which_splitting_brings_most_is_named() -> None:
    found = sentence(
        [
            verdict("near", latency=("worse", 0.9), throughput=("better", 1.2)),
            verdict("far", latency=("better", 1.5), throughput=("open", 3.0)),
            verdict("gone"),
        ]
    )
    wanted = "Splitting pays in 2 of 2 cases (1 not known), most for m over link far: latency times"
    assert found == f"{wanted} 1.5."


def test_where_it_pays_in_none_the_nearest_case_is_named_and_what_is_open_counted() -> None:
    cases = [
        verdict("near", latency=("worse", 0.5), throughput=("worse", 0.7)),
        verdict("far", latency=("worse", 0.8), throughput=("worse", 0.2)),
    ]
    start = "Splitting does not pay in any of 2 cases"
    assert sentence(cases) == f"{start}; it comes nearest for m over link far: latency times 0.8."
    cases[0]["gains"][THROUGHPUT]["verdict"] = "open"
    assert sentence(cases).startswith(f"{start} for certain (1 not resolved); it comes nearest")


def test_a_single_case_is_told_in_full_and_none_with_its_reason() -> None:
    [one] = [verdict("near", latency=("better", 1.1))]
    assert sentence([one]) == "m over link near: said of it."
    assert sentence([verdict("near"), verdict("far")]) == (
        "Whether splitting pays is not known: nothing was measured."
    )


def test_cases_are_told_apart_by_what_differs() -> None:
    packed = [
        USUALLY | {"wire": wire, "window": window} for wire, window in (("fp32", 1), ("int8", 2))
    ]
    assert short_titles(packed) == [
        "m over link x, window 1, fp32",
        "m over link x, window 2, int8 on the wire",
    ]
