"""Nothing of a spec or an inventory reaches a shell unquoted: tasks give lists of words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import ROOT

TASKS = sorted([*ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("playbooks/**/*.yml")])
VARIABLES = sorted([*ROOT.glob("roles/*/vars/*.yml"), *ROOT.glob("roles/*/defaults/*.yml")])
PLUGINS = sorted(
    path
    for kind in ("action_plugins", "library", "files", "callback_plugins")
    for folder in ("roles", "playbooks")
    for path in ROOT.glob(f"{folder}/**/{kind}/*.py")
)

SHELLS = {"shell", "raw", "script", "expect", "telnet", "win_shell"}
"""Modules that run what they are given by a shell."""

WORDS = {"argv", "chdir", "stdin", "stdin_add_newline", "creates", "removes", "strip_empty_ends"}
"""What a task may give to `command`."""


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a document."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if type(value) is list else ():
        yield from mappings(each)


def lists(value: Any) -> Iterator[list[Any]]:
    """Every list in a document."""
    if isinstance(value, list):
        yield value
    for each in value.values() if isinstance(value, dict) else value if type(value) is list else ():
        yield from lists(each)


def faults(document: Any) -> Iterator[str]:
    """How a document could bring a template to a shell."""
    tasks = [each for every in lists(document) for each in every if isinstance(each, dict)]
    for task in tasks:
        for key, given in task.items():
            module = str(key).removeprefix("ansible.builtin.").removeprefix("ansible.legacy.")
            if module in SHELLS and isinstance(given, dict | str):
                yield f"{key} runs a shell"
            if module == "command" and not (isinstance(given, dict) and given.keys() <= WORDS):
                yield f"{key}: allowed are {', '.join(sorted(WORDS))}; got {given}"
            if module == "pip" and not quoted(given.get("extra_args", "")):
                yield f"{key}: extra_args are split into words, and are not quoted: {given}"
    for words in lists(document):
        scripts = [word for flag, word in pairwise(words) if flag == "-c"]
        if any("{{" in str(word) or "{%" in str(word) for word in scripts if word not in PYTHON):
            yield f"a script with a template in it: {words}"


PYTHON = {"{{ worker_probe }}"}
"""Scripts of ours that stand in a variable beside their task, and have no template in them."""


def quoted(text: str) -> bool:
    """Whether every template in a text is quoted, or is a variable that was when it was made."""
    templates = re.findall(r"{{(.*?)}}", text, re.DOTALL)
    return all("quote" in each or each.strip() == "worker_pip_sources" for each in templates)


@pytest.mark.parametrize("path", [*TASKS, *VARIABLES], ids=lambda p: str(p.relative_to(ROOT)))
def test_no_task_gives_a_template_to_a_shell(path: Path) -> None:
    assert list(faults(yaml.safe_load(path.read_text(encoding="utf-8")))) == []


def test_scripts_in_variables_have_no_template() -> None:
    [text] = [
        task["vars"]["worker_probe"]
        for path in TASKS
        for task in mappings(yaml.safe_load(path.read_text(encoding="utf-8")))
        if "worker_probe" in task.get("vars", {})
    ]
    assert "{{" not in text
    sources = (ROOT / "roles/worker/vars/main.yml").read_text(encoding="utf-8")
    assert re.search(r"worker_pip_sources: >-\n(?:  .*\n)*?.*map\('quote'\) \| join", sources)


def test_no_plugin_hands_a_text_to_a_shell() -> None:
    """Scripts of `session_walk` and `session_wait` are run with such names in their tests."""
    assert len(PLUGINS) > 5
    for path in PLUGINS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            assert called not in ("os.system", "os.popen", "subprocess.getoutput"), where
            assert not any(k.arg == "shell" for k in node.keywords), f"{where}: shell=..."


@pytest.mark.parametrize(
    "task",
    [
        {"ansible.builtin.shell": "echo {{ run }}"},
        {"command": "echo {{ run }}"},
        {"ansible.builtin.command": {"cmd": "echo {{ run }}"}},
        {"command": {"argv": ["sh", "-c", "echo {{ run }}"]}},
        {"ansible.builtin.pip": {"name": "a", "extra_args": "--index-url {{ url }}"}},
    ],
)
def test_what_is_looked_for_is_found(task: dict[str, Any]) -> None:
    assert list(faults([task]))
