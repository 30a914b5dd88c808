"""What the README and action.yml say is what the code does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from capmig import endings, report
from capmig.backup.inputs import Engine, Verify
from capmig.errors import CapmigError
from capmig.given import DEFAULTS
from capmig.inputs import Mode, OnFailure, parse

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))


def table(section: str) -> dict[str, list[str]]:
    """The rows of the first table in a section of the README, by the word in their first cell."""
    text = README.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    lines = text[text.index("|---") :].split("\n\n", 1)[0].splitlines()[1:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {cells[0].strip("`"): cells[1:] for cells in rows}


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def examples() -> list[dict[str, str]]:
    """The `with:` of every workflow in the README, with each expression replaced by its name."""
    found = []
    for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL):
        workflow = yaml.safe_load(block)
        for job in workflow["jobs"].values():
            found += [step["with"] for step in job["steps"] if step["uses"].startswith("capmig/capmig@")]
    return [{name: re.sub(r"\${{ .*?(\w+) }}", r"\1", value) for name, value in each.items()} for each in found]


def outcome(result: str = "deployed") -> report.Outcome:
    return report.Outcome(
        result=result,
        app="shop",
        image="shop:2",
        previous_image="shop:1",
        failed_phase="",
        migration_ran=True,
        migration_exit_code=0,
        schema_state="migrated",
        downtime=2.0,
        stages=(),
        error="",
        state="",
        todo="",
        deployed_image="shop:2",
    )


def test_action__inputs() -> None:
    """action.yml names the inputs that are read, in their order, with the defaults that are used."""
    given = {name: each.get("default", "") for name, each in ACTION["inputs"].items()}
    assert list(given.items()) == list(DEFAULTS.items())


def test_action__names_survive_every_runner() -> None:
    """Runners differ in how they pass other characters than these."""
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in [*ACTION["inputs"], *ACTION["outputs"]])


def test_action__outputs() -> None:
    """action.yml names the outputs that are written."""
    assert list(ACTION["outputs"]) == list(report.outputs(outcome()))


def test_action__post_step() -> None:
    """The post step's program is one that the Dockerfile makes, and whose name the entrypoint knows."""
    program = ACTION["runs"]["post-entrypoint"]
    assert f"ln -s /app/entrypoint.py {program}\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f'"{Path(program).name}"' in (ROOT / "entrypoint.py").read_text(encoding="utf-8")


def test_readme__inputs() -> None:
    """The README's table has every input with its default; a default in words is none that is filled in."""
    rows = {
        name: "".join(quoted(cells[0])) if cells[0].startswith("`") else "" for name, cells in table("Inputs").items()
    }
    assert list(rows.items()) == list(DEFAULTS.items())


def test_readme__backup() -> None:
    """The README names the databases that can be backed up."""
    assert quoted(table("Inputs")["backup"][1]) == [str(each) for each in Engine]


def test_readme__backup_verify() -> None:
    """The README names the ways to prove a backup."""
    assert quoted(table("Inputs")["backup-verify"][1]) == [str(each) for each in Verify]


def test_readme__on_failure() -> None:
    """The README names the ways to go on after a failure."""
    assert quoted(table("Inputs")["on-failure"][1]) == [str(each) for each in OnFailure]


def test_readme__outputs() -> None:
    """The README's table has every output, and every result that there is."""
    rows = table("Outputs")
    assert list(rows) == list(report.outputs(outcome()))
    results = {*endings.RESULTS.values(), "refused", "failed", "needs-person"}
    assert set(quoted(rows["result"][0])) - {"on-failure"} == results
    assert results <= set(report.HEADLINES)


def test_readme__exit_codes() -> None:
    """The README's table has the exit codes of all errors, and success."""

    def codes(error: type[CapmigError]) -> set[int]:
        return {error.exit_code}.union(*map(codes, error.__subclasses__()))

    assert {int(code) for code in table("Exit codes")} == {0} | codes(CapmigError)


def test_readme__modes() -> None:
    """The README's table has every mode."""
    assert list(table("Modes")) == [str(mode) for mode in Mode]


def test_readme__examples() -> None:
    """The workflows to copy are accepted as they stand."""
    deploy, back_up, mend = (
        parse(
            {f"INPUT_{name.upper()}": value for name, value in each.items()}
            | {"INPUT_MODE": mode, "GITHUB_WORKSPACE": "/github/workspace"}
        )
        for each, mode in zip(examples(), ("deploy", "backup", "recover"), strict=True)
    )
    assert deploy.migration is not None
    assert deploy.migration.command == ("--migrate-database",)
    assert back_up.download is not None
    assert mend.mode is Mode.RECOVER


def test_readme__migrations() -> None:
    """Each way that the README shows to say what migrates is accepted."""
    common = {name: value for name, value in examples()[0].items() if name != "migrate-command"}
    ways = re.findall(r"^\| .+? \| `(migrate-[a-z]+: .+?)` \|$", README, re.MULTILINE)
    assert len(ways) == 5
    for inputs in ways:
        name, _, value = inputs.partition(": ")
        given = parse({f"INPUT_{key.upper()}": text for key, text in (common | {name: value}).items()})
        assert given.migration is not None


@pytest.mark.parametrize("fragment", [words for row in table("Troubleshooting") for words in quoted(f"`{row}`")])
def test_readme__messages(fragment: str) -> None:
    """The messages that the README helps with are messages that there are."""
    sources = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "capmig").glob("*.py")))
    assert fragment.rpartition(": ")[2] in sources


def test_readme__links() -> None:
    """Every link within the README leads to a heading."""
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", README, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= headings


def test_requirements__are_the_packages() -> None:
    """The image installs what the package needs, no more and no less."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[<>=]", each)[0] for each in project["dependencies"]}
    assert set((ROOT / "requirements.in").read_text(encoding="utf-8").split()) == names
