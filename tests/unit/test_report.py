import itertools
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from capmig.report import Outcome, Stage, amount, code, duration, fenced, one_line, outputs, summary

DEPLOYED = Outcome(
    result="deployed",
    app="web",
    image="ghcr.io/acme/web:2",
    previous_image="ghcr.io/acme/web:1",
    failed_phase="",
    migration_ran=True,
    migration_exit_code=0,
    schema_state="migrated",
    downtime=5.06,
    stages=(
        Stage(title="Check what is given", began=0.0, ended=1.4),
        Stage(title="Stop web: 2 → 0 replicas", began=1.4, ended=65.0),
    ),
    error="",
    state="",
    todo="",
    deployed_image="ghcr.io/acme/web:2",
)
RESTORED = replace(
    DEPLOYED,
    result="restored",
    failed_phase="migrating",
    migration_exit_code=3,
    schema_state="restored",
    error="The migration failed with exit code 3.\nrelation `users` exists",
    state="web runs ghcr.io/acme/web:1 again.",
    todo="Mend the migration:\n\n    capmig --mode recover\n",
    deployed_image="ghcr.io/acme/web:1",
)
MARKDOWN = MarkdownIt("commonmark").enable("table")


def cells(markdown: str) -> list[str]:
    """The texts of all table cells, as a reader of the rendered page sees them."""
    found = []
    tokens = MARKDOWN.parse(markdown)
    for before, token in itertools.pairwise(tokens):
        if before.type in ("td_open", "th_open"):
            for child in token.children or []:
                assert child.type in ("text", "text_special", "code_inline") or child.content in ("<code>", "</code>")
            found.append("".join(child.content for child in token.children or [] if not child.type.startswith("html")))
    return found


def blocks(markdown: str) -> list[tuple[str, str]]:
    return [(token.info, token.content) for token in MARKDOWN.parse(markdown) if token.type == "fence"]


def test_outputs__success() -> None:
    """Every output has the text that a workflow's `if:` compares with."""
    assert outputs(DEPLOYED) == {
        "result": "deployed",
        "failed-phase": "",
        "migration-ran": "true",
        "migration-exit-code": "0",
        "schema-state": "migrated",
        "previous-image": "ghcr.io/acme/web:1",
        "deployed-image": "ghcr.io/acme/web:2",
        "downtime-seconds": "5.1",
        "backup-id": "",
        "backup-bytes": "",
        "backup-seconds": "",
        "backup-file": "",
        "restored": "false",
        "summary": "web: deployed ghcr.io/acme/web:2; schema migrated; down for 5.1 s",
    }


def test_outputs__unknown_is_empty() -> None:
    """What is not known is an empty output, never the word None."""
    unknown = outputs(replace(DEPLOYED, migration_ran=False, migration_exit_code=None, downtime=None))
    assert unknown["migration-ran"] == "false"
    assert outputs(replace(DEPLOYED, migration_ran=None))["migration-ran"] == ""
    assert unknown["migration-exit-code"] == unknown["downtime-seconds"] == ""


def test_one_line__failure() -> None:
    """A failure says in one line how it ended, in which phase, and why."""
    assert one_line(RESTORED) == (
        "web: restored; failed while migrating; The migration failed with exit code 3. relation `users` exists; "
        "schema restored; down for 5.1 s"
    )


@given(st.text())
def test_one_line__any_error(error: str) -> None:
    """Whatever the error, it stays one line of bearable length."""
    line = one_line(replace(RESTORED, error=error))
    assert len(line.splitlines()) == 1
    assert len(line) <= 500


def test_summary__success() -> None:
    """A success shows the table and the timeline, and no section about failures."""
    shown = summary(DEPLOYED)
    assert cells(shown) == [
        *("", ""),
        *("New image", "ghcr.io/acme/web:2"),
        *("Image before", "ghcr.io/acme/web:1"),
        *("Image now", "ghcr.io/acme/web:2"),
        *("Migration", "ran, exit code 0"),
        *("Schema", "migrated"),
        *("Downtime", "5.1 s"),
    ]
    assert shown.startswith("## `web` ✅ deployed\n")
    assert "###" not in shown


@pytest.mark.parametrize(
    ("result", "shown"),
    [("failed", "none"), ("refused", "none"), ("stayed-down", "not over yet"), ("needs-person", "not known")],
)
def test_summary__downtime_without_a_number(result: str, shown: str) -> None:
    """An app that nobody stopped was not down; whether one that waits for a person is, is not said unseen."""
    table = cells(summary(replace(DEPLOYED, result=result, downtime=None)))
    assert table[table.index("Downtime") + 1] == shown


def test_summary__timeline() -> None:
    """The timeline is a Mermaid gantt in time of day; a colon in a title would end the title there."""
    ((info, gantt),) = blocks(summary(DEPLOYED))
    assert info == "mermaid"
    assert gantt.splitlines() == [
        "gantt",
        "    dateFormat HH:mm:ss.SSS",
        "    axisFormat %M:%S",
        "    1. Check what is given (1.4 s) : 00:00:00.000, 00:00:01.400",
        "    2. Stop web 2 → 0 replicas (1 min 4 s) : 00:00:01.400, 00:01:05.000",
    ]


def test_summary__failure() -> None:
    """A failure tells the three parts of its error, word for word."""
    shown = summary(RESTORED)
    assert re.findall(r"^### (.*)$", shown, re.MULTILINE) == [
        "What happened",
        "State of the app and of the schema",
        "What to do next",
    ]
    assert [text for info, text in blocks(shown) if info == "text"] == [
        "The migration failed with exit code 3.\nrelation `users` exists\n",
        "web runs ghcr.io/acme/web:1 again.\n",
        "Mend the migration:\n\n    capmig --mode recover\n",
    ]
    assert cells(shown)[-2:] == ["Failed while", "migrating"]


def test_summary__no_stages() -> None:
    """A run that was refused at once has no timeline: Mermaid shows an empty one as an error."""
    refused = summary(replace(RESTORED, result="refused", stages=(), downtime=None, migration_ran=False))
    assert "mermaid" not in refused
    assert "not run" in cells(refused)


@given(st.text())
def test_summary__any_title(title: str) -> None:
    """No step title breaks out of its line of the timeline."""
    shown = summary(replace(DEPLOYED, stages=(Stage(title=title, began=2.0, ended=1.0),)))
    ((_, gantt),) = blocks(shown)
    *_, line = gantt.splitlines()
    assert len(gantt.splitlines()) == 4
    assert re.fullmatch(r"    1\. [^:;#%]*\(0\.0 s\) : 00:00:02\.000, 00:00:02\.000", line)


@given(st.text())
def test_summary__any_result_and_app(text: str) -> None:
    """Odd names add no heading, no row and no block."""
    shown = summary(replace(DEPLOYED, app=text, image=text, result=text, stages=()))
    kinds = [token.type for token in MARKDOWN.parse(shown)]
    assert kinds.count("heading_open") == kinds.count("table_open") == 1
    assert "fence" not in kinds


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_code__table_cell(text: str) -> None:
    """Any text shows as itself in a table cell, on one line."""
    clean = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text).split())
    assert cells(f"| a |\n|---|\n| {code(text)} |") == ["a", clean]


@pytest.mark.parametrize(
    "name",
    ["reg:5000/a_b/c@sha256:00ff", "a|b", r"a\|b", "`", "a``b`", "<img src=x>", "&amp;", "**x**", "[a](b)", "_x_"],
)
def test_code__odd_names(name: str) -> None:
    """What Markdown, HTML or a table would take as markup shows as it is."""
    assert cells(f"| a |\n|---|\n| {code(name)} |") == ["a", name]


@given(st.text(st.sampled_from("`~ab|<#\n \t>-")))
def test_fenced__any_text(text: str) -> None:
    """No text ends its own code block early."""
    assert blocks(fenced(text)) == [("text", text.strip("\n") + "\n")]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (1.44, "1.4 s"), (59.96, "1 min 0 s"), (125, "2 min 5 s"), (3725, "1 h 2 min")],
)
def test_duration__units(seconds: float, text: str) -> None:
    """Tenths of a second below a minute, no false precision above."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (9354, "9.4 kB"),
        (999_960, "1.0 MB"),
        (7_000_000, "7.0 MB"),
        (1_203_000_000, "1.2 GB"),
    ],
)
def test_amount(size: int, text: str) -> None:
    """A size is told in the unit that makes it readable."""
    assert amount(size) == text
