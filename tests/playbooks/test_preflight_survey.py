"""Who but root can change the Python by which a host is asked as root."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests import ROOT
from tests.helpers.role_code import module

PYTHON = """\
/usr/bin/python3
drwxr-xr-x root root /
drwxrwxrwt root root usr
lrwxrwxrwx root root python3 -> python3.11
-rwxrwxr-x root root   python3.11
f: /usr/lib/python3.11
drwxr-xr-x root root /
drwxr-xr-x root root python3.11
"""


@pytest.fixture(scope="module")
def survey() -> ModuleType:
    """The action's own module."""
    return module(ROOT / "roles/preflight/action_plugins/preflight_survey.py")


def test_nobody_can_change_what_is_roots_alone(survey: ModuleType) -> None:
    # In a folder with the sticky bit, links and files of root are safe; so are they from its group.
    assert survey.changeable(PYTHON) is None


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("t root root usr", "t ada root usr", "its part usr belongs to user ada"),
        ("x root root python3 ->", "x ada ada python3 ->", "belongs to user ada"),
        ("rwxrwxrwt", "rwxrwxrwx", "its part usr may be changed by everybody"),
        ("-rwxrwxr-x root root", "-rwxrwxr-x root staff", "may be changed by group staff"),
        (
            "drwxr-xr-x root root python3.11",
            "drwxr-xrwt root root python3.11",
            "/usr/lib/python3.11: its part python3.11 may be changed by everybody",
        ),
    ],
)
def test_who_can_change_a_part_is_named(
    survey: ModuleType, before: str, after: str, said: str
) -> None:
    assert PYTHON.count(before) == 1
    assert said in survey.changeable(PYTHON.replace(before, after))
