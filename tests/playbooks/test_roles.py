"""Roles are built the same way, and their documents say what their code does.

``python -m tests.playbooks.test_roles`` writes each role's README.md from its argument_specs.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import ROOT
from tests.helpers.role_code import module

ROLES = sorted(path.parent.parent for path in ROOT.glob("roles/*/tasks/main.yml"))
PARTS = {"defaults/main.yml", "meta/main.yml", "meta/argument_specs.yml", "tasks/main.yml"}

each_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


def parsed(path: Path) -> Any:
    """A YAML file's content."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def specs(role: Path) -> dict[str, dict[str, Any]]:
    """Argument specs of a role, by entry point."""
    found: dict[str, dict[str, Any]] = parsed(role / "meta/argument_specs.yml")["argument_specs"]
    return found


def options(role: Path) -> dict[str, dict[str, Any]]:
    """Every public variable of a role with its specification, whichever entry point takes it."""
    found: dict[str, dict[str, Any]] = {}
    for entry in specs(role).values():
        for name, option in entry.get("options", {}).items():
            assert found.setdefault(name, option) == option, f"{name}: two specifications"
    return found


def readme(role: Path) -> str:
    """What a role's README.md says."""
    lines = [
        f"# Role {role.name}",
        "",
        f"{parsed(role / 'meta/main.yml')['galaxy_info']['description']}.",
        "",
    ]
    for entry, spec in specs(role).items():
        if entry != "main":
            lines += [f"## `tasks_from: {entry}`", "", f"{spec['short_description']}.", ""]
        lines += [f"- {plain(line)}" for line in texts(spec.get("description", []))]
        lines += [""] if spec.get("description") else []
        if spec.get("options"):
            lines += ["| variable | type | default | meaning |", "|---|---|---|---|"]
            lines += [row(name, option) for name, option in spec["options"].items()] + [""]
    return "\n".join(lines)


def row(name: str, option: dict[str, Any]) -> str:
    """One variable's line of the table."""
    escaped = r"\|"  # even in code, a bare one ends a table's cell
    default = "required" if option.get("required") else f"`{json.dumps(option.get('default'))}`"
    kind = option["type"] + (f" of {option['elements']}" if "elements" in option else "")
    meaning = " ".join(plain(line) for line in texts(option["description"]))
    return f"| `{name}` | {kind} | {default.replace('|', escaped)} | {meaning} |"


def texts(description: str | list[str]) -> list[str]:
    """A description's lines, which may be given as one."""
    return [description] if isinstance(description, str) else description


def plain(text: str) -> str:
    """Ansible's markup as Markdown."""
    return re.sub(r"[CO]\(([^)]*)\)", r"`\1`", text)


@each_role
def test_a_role_has_all_parts(role: Path) -> None:
    there = {str(path.relative_to(role)) for path in role.rglob("*.yml")}
    assert there >= PARTS
    assert (role / "README.md").is_file()


@each_role
def test_defaults_are_those_of_the_argument_specs(role: Path) -> None:
    said = {name: o["default"] for name, o in options(role).items() if not o.get("required")}
    assert parsed(role / "defaults/main.yml") == said


@each_role
def test_public_variables_carry_the_name_of_their_role(role: Path) -> None:
    assert [name for name in options(role) if not name.startswith(f"{role.name}_")] == []


@each_role
def test_every_entry_point_has_its_tasks(role: Path) -> None:
    assert [name for name in specs(role) if not (role / f"tasks/{name}.yml").is_file()] == []


def test_what_is_entered_from_outside_a_role_is_specified() -> None:
    files = [*ROOT.glob("playbooks/*.yml"), *ROOT.glob("roles/*/tasks/*.yml")]
    pattern = r"name: (\w+)\n +tasks_from: (\w+)"
    entered = {pair for file in files for pair in re.findall(pattern, file.read_text())}
    assert len(entered) > 10
    known = {(role.name, entry) for role in ROLES for entry in specs(role)}
    assert entered <= known


@each_role
def test_main_is_the_first_entry_point_if_there_are_any(role: Path) -> None:
    assert next(iter(specs(role))) == "main"


@each_role
def test_task_files_stay_short(role: Path) -> None:
    long = [
        path.name for path in role.glob("tasks/*.yml") if len(path.read_text().splitlines()) > 60
    ]
    assert long == []


@each_role
def test_the_readme_says_what_the_specs_say(role: Path) -> None:
    assert (role / "README.md").read_text(encoding="utf-8") == readme(role), (
        "run: python -m tests.playbooks.test_roles"
    )


def test_the_netem_module_documents_the_arguments_it_takes() -> None:
    netem_link = module(ROOT / "roles/netem/library/netem_link.py")
    documented = yaml.safe_load(netem_link.DOCUMENTATION)["options"]
    described = {
        name: {key: value for key, value in option.items() if key != "description"}
        for name, option in documented.items()
    }
    assert described == netem_link.SPEC


def test_the_lint_profile_is_the_strictest_and_nothing_is_skipped() -> None:
    lint = parsed(ROOT / ".ansible-lint")
    assert lint["profile"] == "production"
    assert not {"skip_list", "warn_list"} & set(lint)


def test_suppressions_of_lint_give_their_reason() -> None:
    files = [*ROOT.glob("roles/**/*.yml"), *ROOT.glob("playbooks/*.yml")]
    found = [line for file in files for line in file.read_text().splitlines() if "noqa" in line]
    assert [line for line in found if not re.search(r"# noqa: [a-z\[\]-]+ - \w+", line)] == []


def test_devices_get_the_versions_that_the_controller_has() -> None:
    lines = (ROOT / "requirements-worker.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    here = {name: importlib.metadata.version(name).partition("+")[0] for name in pins}
    assert pins == here


if __name__ == "__main__":
    for each in ROLES:
        (each / "README.md").write_text(readme(each), encoding="utf-8")
    sys.exit(0)
