"""Who looks on: what must hold after every step, of every act, of every report, and in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from capmig.entry import Entry, Phase
from capmig.jobs import KIND_LABEL
from capmig.journal import CALL, LEASE, config_name
from capmig.ports import NO_TASK, Config, Spec
from capmig.recover import Ending
from tests.fakes.database import Database
from tests.fakes.orchestrator import copy_of
from tests.fakes.world import APP
from tests.simulation.faults import Process

JOURNAL = config_name(APP)
PERSON = "a person"
WORKS = ("migration", "backup-dump", "backup-restore")  # the jobs beside which the app must not run
CLOSED = (Phase.BACKING_UP, Phase.MIGRATING, Phase.MIGRATED, Phase.RESTORING)
SETTLES = 60.0  # seconds after a person's act in which a report may be overtaken by it
TOUCHED_WITHIN = 16.0  # seconds in which an undisturbed owner has written that somebody started the app…
STOPPED_WITHIN = 35.0  # …and has stopped it, its grace period included


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The world at the moment when a journal ended."""

    images: list[str]
    replicas: int
    schema: int | str
    backups: dict[str, int | str]
    began: bool
    succeeded: bool
    undisturbed: bool


def bare(spec: Spec) -> Spec:
    """A spec without what may change: replicas, image, CapRover's label."""
    spec = copy_of(spec)
    del spec["Mode"]
    container = spec["TaskTemplate"]["ContainerSpec"]
    del container["Image"]
    container["Labels"] = {k: v for k, v in container.get("Labels", {}).items() if k != "randomLabelForceUpdate"}
    return spec


class Witness:
    """Collects what is wrong, in sentences."""

    def __init__(self, world: Database, now: Callable[[], float], *, replicas: int) -> None:
        self.wrong: list[str] = []
        self.replicas = replicas
        self.settings = bare(world.service.spec)  # a person may change them
        self.starter = ""  # who gave the app replicas last; nobody, before the first
        self.disturbed_at = -SETTLES
        self.unlocked_by_person = False
        self.unlocked_at = -LEASE
        self.processes: dict[str, Process] = {}  # by holder
        self.ends: dict[str, Seen] = {}  # by holder
        self._world = world
        self._service = world.swarm.world.services[world.service.id]
        self._now = now
        self._jobs: set[str] = set()  # of the deploy, or deploys, that the journal has told of since it began
        self._began: dict[str, str] = {}  # the state, once it ran, of each migration's task, by the job's name
        self._read = 0
        self._config: Config | None = None
        self._entry: Entry | None = None
        self._services: set[str] = set()
        self._intruded: float | None = None
        self._asked: set[str] = set()  # images that CapRover was asked for
        self._asker = ""  # the holder for whom CapRover started the app
        self._acted = 0
        self._ran_since_dump = True
        self._restoring = False

    def say(self, what: str) -> None:
        self.wrong.append(f"{self._now():.2f}: {what}")

    @property
    def entry(self) -> Entry | None:
        """The journal as it is now."""
        config = self._world.swarm.direct.config(JOURNAL)
        if config is not self._config:
            self._config = config
            self._entry = None if config is None else Entry.read(config.name, config.labels)
        return self._entry

    @property
    def _two_may_act(self) -> bool:
        """Whoever removes a living run's journal lets a second one begin, until the first looks at it again."""
        return self._now() - self.unlocked_at < LEASE

    def step(self) -> None:
        """What must hold at every moment."""
        orchestrator = self._world.swarm.world
        self._follow_jobs()
        self._services = set(orchestrator.services)
        alive = [task for task in orchestrator.tasks if task.alive]
        others = [task for task in alive if task.service_name != APP]
        app = len(alive) - len(others)
        jobs = [task.service_name for task in others if _kind(task.spec) in WORKS]
        entry = self.entry
        if len(jobs) > 1 and not self._two_may_act:
            self.say(f"two jobs work on the database at once: {jobs}")
        if entry is not None and entry.backup_id and entry.backup_id not in self._world.backups:
            self.say(f"the backup {entry.backup_id} is gone before its deploy has ended")
        closed = entry is not None and entry.phase in CLOSED
        self._follow_backup(app)
        # CapRover may come to an accepted deploy long after it was given up; there is no way to take it back.
        late = bool(self._asker) and entry is not None and self._asker != entry.holder
        if app and (jobs or closed) and self.starter != PERSON and not (late or self._two_may_act):
            self.say(f"{app} processes of the app run while the database is worked on (started by {self.starter})")
        self._follow_intruder(app, entry)
        down = self._service.spec["Mode"]["Replicated"]["Replicas"] == 0
        if (
            down
            and self.replicas
            and entry is None
            and self.starter not in ("", PERSON)
            and not self.unlocked_by_person
        ):
            self.say("the app is at 0 replicas, and there is no journal")

    def _follow_intruder(self, app: int, entry: Entry | None) -> None:
        """Whatever a person starts during a migration is seen and stopped in time, if its owner is well."""
        owner = self.processes.get(entry.holder) if entry is not None else None
        if not app or entry is None or entry.phase != Phase.MIGRATING or owner is None or not owner.well:
            self._intruded = None
            return
        self._intruded = self._now() if self._intruded is None else self._intruded
        since = self._now() - self._intruded
        if since > TOUCHED_WITHIN and not entry.touched:
            self.say("a person started the app during the migration, and the journal does not say so")
        if since > STOPPED_WITHIN:
            self.say("a person started the app during the migration, and the guard does not stop it")

    def _follow_backup(self, app: int) -> None:
        """Whether a process of the app can have written since the backup was made, or, later, since a restore began."""
        for action in self._world.did[self._acted :]:
            if action in ("dump", "restore"):
                self._restoring = action == "restore"
                self._ran_since_dump = False
        self._acted = len(self._world.did)
        self._ran_since_dump = self._ran_since_dump or app > 0

    def _follow_jobs(self) -> None:
        history = self._world.swarm.history
        for at, _, name, state in history[self._read :]:
            if not name.endswith("-migration"):
                continue
            if state == "running":
                if name in self._began:
                    self.wrong.append(f"{at:.2f}: the migration {name} ran twice")
                self._began[name] = state
            elif name in self._began:
                self._began[name] = state
        self._read = len(history)

    def disturbed(self, starts: bool = False) -> None:
        """Somebody else has acted; `starts`: a person, by whose hand the app now runs, or does not."""
        self.disturbed_at = self._now()
        if starts:
            self.starter = PERSON

    def unlock(self) -> None:
        """A person removes the journal: what it said is lost, and two runs may act until the lease ends."""
        self.disturbed()
        self.unlocked_by_person = True
        self.unlocked_at = self._now()
        self.replicas = 0

    def change_settings(self, spec: Spec) -> None:
        """A person gives the app other settings, which nobody may change back."""
        self.settings = bare(spec)

    def effect(self, process: Process, act: str, args: tuple[Any, ...]) -> None:
        """An act of a process has just taken effect."""
        before, entry = self._entry, self.entry
        if act in ("create_config", "update_config"):
            if act == "create_config":
                self._jobs.clear()
                self.unlocked_by_person = False
            if entry is not None:
                self._must_not_rob(before, entry)
                self._must_restore(before, entry)
                self._jobs.add(entry.job)
                if entry.holder == process.holder and entry.phase == Phase.DOWN:
                    self.ends[process.holder] = self._look()
            return
        if act == "remove_config":
            self.ends[process.holder] = self._look()
            return
        if act == "remove_service" and args[0].id not in self._services:
            return
        if act == "remove_service" and entry is not None and args[0].id == entry.job_id:
            left = entry.job_deadline - self._world.clock.time()
            if entry.phase == Phase.MIGRATING and left > CALL and self._world.swarm.alive(entry.job):
                self.say(f"{process.name} stops a migration that has {left:.1f} s left")
        if act == "create_service" and process.ended and not _works(args[0]):
            return  # what only pulls, or was never begun, may come late; the next deploy sweeps it away
        if (entry is None or entry.holder != process.holder) and not self._two_may_act:
            holder = "nobody" if entry is None else entry.holder
            self.say(f"{process.name} ({act}) acts while {holder} holds the journal")
        # One that was left half done begins anew: what the app has written meanwhile, it wrote into half a database.
        restores = act == "create_service" and _kind(args[0]) == "backup-restore"
        if restores and self._ran_since_dump and not self._restoring:
            self.say("a restore is begun though the app has run since the backup was made")
        if act == "update_service" and args[0].name == APP:
            if bare(args[1]) != self.settings:
                self.say(f"{process.name} changes more than replicas and image")
            if args[1]["Mode"]["Replicated"]["Replicas"]:
                self._started_by(process)
            elif entry is not None and entry.phase in CLOSED and not entry.touched:
                self.say(f"{process.name} stops the app again, and the journal does not say that it was started")
        elif act == "deploy":
            self._started_by(process, through_caprover=True)
            self._asked.add(args[0])

    def _started_by(self, process: Process, *, through_caprover: bool = False) -> None:
        """A process has started the app; while two may act, that is the person's doing who let them."""
        self.starter = PERSON if self._two_may_act else process.name
        if through_caprover or not self._world.caprover.pending:
            self._asker = process.holder if through_caprover else ""

    def _must_not_rob(self, before: Entry | None, entry: Entry) -> None:
        """A journal is taken over only from somebody who may be dead."""
        if before is None or before.holder == entry.holder or before.phase == Phase.DOWN:
            return
        if self.processes[before.holder].well and not self.unlocked_at > 0:
            self.say(f"{entry.owner} takes the journal from {before.owner}, which lives and is well")

    def _must_restore(self, before: Entry | None, entry: Entry) -> None:
        """What was decided is done, unless somebody has started the app."""
        if before is None or before.phase != Phase.RESTORING or entry.phase == Phase.RESTORING or entry.restored:
            return
        if self._service.version == entry.drained_version and not entry.touched:
            self.say(f"{entry.owner} goes on to {entry.phase} without the restore that was decided")

    def _look(self) -> Seen:
        nodes = {node.id for node in self._world.swarm.direct.nodes() if node.ready}
        tasks = [task for task in self._world.swarm.world.tasks if task.service_name == APP and task.alive]
        tasks = [task for task in tasks if task.node_id in nodes]
        states = [self._began[job] for job in sorted(self._jobs) if job in self._began]
        return Seen(
            images=sorted(task.image for task in tasks),
            replicas=self._world.service.replicas or 0,
            schema=self._world.schema,
            backups=dict(self._world.backups),
            began=bool(states),
            succeeded="complete" in states,
            undisturbed=self._now() - self.disturbed_at > SETTLES,
        )

    def report(self, process: Process, ending: Ending) -> None:
        """A process has told how its deploy ended."""
        seen, entry, who = self.ends.get(process.holder), ending.entry, f"{process.name}: {ending.result}"
        if seen is None:
            if self.unlocked_at < 0:
                self.say(f"{who}, and nobody saw it end its journal")
            return
        if entry.schema == "unchanged" and seen.began:
            self.say(f"{who}, schema unchanged, but a migration began")
        saved = seen.backups.get(entry.backup_id)
        if entry.schema == "restored" and seen.schema != saved:
            self.say(f"{who}, schema restored, but it is {seen.schema} instead of {saved}")
        if entry.backup_id and saved is None:
            self.say(f"{who}, and its backup is gone")
        if entry.schema == "migrated" and not seen.succeeded:
            self.say(f"{who}, schema migrated, but no migration succeeded")
        # What a run has not touched may have been changed by others at any time.
        if not seen.undisturbed or (ending.result == "unchanged" and self.disturbed_at > 0):
            return
        right = {
            "deployed": [entry.image] * seen.replicas,
            "restored": [entry.previous_image] * entry.replicas,
            "unchanged": [entry.previous_image] * entry.replicas,
            "stayed-down": [],
        }[ending.result]
        if seen.images != right:
            self.say(f"{who}, but what runs is {seen.images} instead of {right}")
        if ending.result == "deployed" and entry.job and seen.schema != 2:
            self.say(f"{who}, but the schema is {seen.schema}")

    def end(self, *, may_stay_down: bool, replicas: tuple[int, ...], swept: bool) -> None:
        """All is over, the last run healed what there was to heal. `swept`: it has also removed what only pulls."""
        world, entry = self._world, self.entry
        if bare(world.service.spec) != self.settings:
            self.say("the settings of the service are not what they were")
        if self.unlocked_at > 0:
            return  # nobody can know any more what there was to heal
        down = entry is not None and entry.phase == Phase.DOWN
        if entry is not None and not (down and may_stay_down):
            self.say(f"the journal is left in phase {entry.phase}")
        kept = [each.name for each in world.swarm.direct.services(KIND_LABEL) if swept or _works(each.spec)]
        jobs = [job for job in world.jobs if job in kept]
        if jobs:
            self.say(f"jobs are left: {jobs}")
        alive = sorted(task.image for task in world.swarm.world.tasks if task.service_name == APP and task.alive)
        late = down and world.service.image in self._asked
        wanted = (0, *replicas) if late else (0,) if down else replicas
        if len(alive) not in wanted or world.service.replicas not in wanted or set(alive) - {world.service.image}:
            self.say(f"in the end {alive} run of {world.service.replicas} × {world.service.image}")


def _works(spec: Spec) -> bool:
    """Whether it is a job that works on the database, or has."""
    return _kind(spec) in WORKS and spec["Mode"] != NO_TASK


def _kind(spec: Spec) -> str:
    """What a job of capmig is for; empty for any other service."""
    return str((spec.get("Labels") or {}).get(KIND_LABEL, ""))
