"""How a run ended, in the words of the outputs and the summary. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from capmig.backup import stages as backups
from capmig.backup.download import Copied
from capmig.deploy import Report
from capmig.errors import CapmigError, NeedsPerson, OwnMistake, Refused
from capmig.recover import Ending, state_of_schema
from capmig.report import Outcome, Stage


@dataclass(frozen=True, kw_only=True)
class Ended:
    """`settled`: nothing is left to recover. `quiet`: there is nothing to tell, as in an idle post step."""

    outcome: Outcome
    exit_code: int
    settled: bool = True
    quiet: bool = False


# By an Ending's result. The last three are what a person asks for.
RESULTS = {
    "deployed": "deployed",
    "restored": "restored",
    "unchanged": "failed",
    "stayed-down": "stayed-down",
    "backed-up": "backed-up",
    "listed": "listed",
    "database-restored": "database-restored",
}
EXIT_CODES = {**dict.fromkeys(RESULTS, 0), "restored": 1, "unchanged": 1, "stayed-down": 3}


def of_deploy(done: Report, stages: tuple[Stage, ...], copied: Copied | None = None) -> Ended:
    """The end of a deploy: a success, or a failure after which `recover` brought the app into a safe state.

    A deploy whose backup was not copied to the runner as asked has succeeded, and its step fails.
    """
    ending, error = done.ending, done.error
    outcome = _outcome(ending, stages, failed_phase=done.failed_phase, error=error)
    exit_code = EXIT_CODES[ending.result]
    if copied is not None:
        errors = "\n".join(text for text in (outcome.error, copied.error) if text)
        outcome = replace(outcome, backup_file=copied.file, error=errors)
        if copied.error and not exit_code:
            done_well = f"{ending.entry.image} is deployed and runs." if ending.result == "deployed" else ""
            exit_code = 1
            outcome = replace(
                outcome,
                state=done_well or "All else that was asked for is done.",
                todo="Mend what is said above. With mode: backup a new one is made and downloaded.",
            )
    return Ended(outcome=outcome, exit_code=exit_code)


def of_recovery(ending: Ending, stages: tuple[Stage, ...]) -> Ended:
    """The end of a deploy that another run had left: a success, whether it went forward or back."""
    reason = CapmigError(ending.entry.reason) if ending.entry.reason else None
    return Ended(
        outcome=_outcome(ending, stages, failed_phase="", error=reason),
        exit_code=3 if ending.result == "stayed-down" else 0,
    )


def of_error(error: CapmigError, environ: Mapping[str, str], stages: tuple[Stage, ...]) -> Ended:
    """A run that ended without touching anything, or whose journal waits for a person or the next run."""
    app = environ.get("INPUT_APP", "").strip()
    image = environ.get("INPUT_IMAGE", "").strip()
    refused = isinstance(error, Refused)
    outcome = Outcome(
        result="refused" if refused else "needs-person" if isinstance(error, NeedsPerson) else "failed",
        app=app,
        image=image,
        previous_image="",
        failed_phase="",
        migration_ran=None if isinstance(error, NeedsPerson) else False,
        migration_exit_code=None,
        schema_state="unchanged" if refused else "",
        downtime=None,
        stages=stages,
        error=error.what,
        state=error.state,
        todo=error.todo,
        deployed_image="",
    )
    return Ended(outcome=outcome, exit_code=error.exit_code, settled=refused)


def of_own_mistake(mistake: OwnMistake, environ: Mapping[str, str], stages: tuple[Stage, ...]) -> Ended:
    """A mistake of capmig's own where even `recover` did not help: the state is not known, and that is said."""
    error = NeedsPerson(
        mistake.what,
        state="What has become of the app is not known to this run. If it had begun, its journal is there.",
        todo="See whether the app runs, and run mode: recover: it brings an unfinished deploy to its end, and does "
        f"nothing if there is none. {mistake.todo}",
    )
    return of_error(error, environ, stages)


def _outcome(ending: Ending, stages: tuple[Stage, ...], *, failed_phase: str, error: CapmigError | None) -> Outcome:
    entry = ending.entry
    failed = EXIT_CODES[ending.result] != 0
    return Outcome(
        result=RESULTS[ending.result],
        app=entry.app,
        image=entry.image,
        previous_image=entry.previous_image,
        failed_phase=failed_phase if failed else "",
        migration_ran=entry.schema != "unchanged" or entry.exit_code is not None,
        migration_exit_code=entry.exit_code,
        schema_state=entry.schema,
        downtime=ending.downtime,
        stages=stages,
        error=error.what if error is not None and failed else "",
        state=_state(ending) if failed else "",
        todo=_todo(ending, error) if failed else "",
        backup_id=entry.backup_id,
        backup_bytes=entry.backup_bytes,
        backup_seconds=entry.backup_seconds,
        restored=entry.restored,
        deployed_image={"deployed": entry.image, "stayed-down": ""}.get(ending.result, entry.previous_image),
    )


def _state(ending: Ending) -> str:
    entry = ending.entry
    replicas = f"{entry.replicas} replica{'' if entry.replicas == 1 else 's'}"
    schema = state_of_schema(entry)
    return {
        "restored": f"{entry.service} runs {entry.previous_image} again, with {replicas}; {schema}",
        "unchanged": f"{entry.service} was not stopped: {entry.previous_image} with {replicas} runs on; {schema}",
        "stayed-down": f"{entry.service} is stopped, as on-failure asks; {schema}",
    }[ending.result]


def _todo(ending: Ending, error: CapmigError | None) -> str:
    entry = ending.entry
    found = [error.todo] if error is not None and error.todo else []
    if ending.result == "stayed-down":
        found.append(f"Deploy a mended version, or bring {entry.previous_image} back with mode: recover.")
    elif entry.restored:
        return "\n".join(found)
    elif entry.schema == "unknown" and ending.result == "restored":
        found.append(
            "The old version runs on a database that the migration may have changed: check that it serves well."
        )
    elif entry.schema == "migrated":
        found.append("The old version runs on the migrated database: check that it serves well.")
    if entry.backup_id and entry.schema in ("unknown", "migrated"):
        found.append(backups.where(entry))
    return "\n".join(found)
