"""What the deploy relies on in a swarm, held against the fake one and a real one alike."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest

from capmig.errors import Conflict, EngineRefused, Exists
from capmig.ports import NO_TASK, ONE_TASK, Clock, LogLine, Service, Spec, Swarm, Task
from capmig.swarm import DockerSwarm
from capmig.swarm_logs import LEFT_OUT, LONGEST_LINE, MOST_BYTES, MOST_PIECES
from tests.contract.private_engine import IMAGE, private_engine
from tests.fakes.clock import FakeClock
from tests.fakes.swarm import FakeSwarm, Run

SECOND = 10**9
TIMEOUT = 90.0
BEHAVIOUR = "capmig.test.behaviour"

# What a container does, as a script and as its description for the fake.
BEHAVIOURS = {
    "serves": ("trap 'exit 0' TERM; while :; do sleep .1; done", Run()),
    "stubborn": ("trap '' TERM; while :; do sleep .1; done", Run(stopping=1000.0)),
    "crashes": ("sleep .3; exit 3", Run(duration=0.3, exit_code=3)),
    "counts": (
        "for n in one two three; do sleep .2; echo $n; done",
        Run(duration=0.7, output=((0.2, "one"), (0.4, "two"), (0.6, "three"))),
    ),
    "fails": ("echo about to fail; exit 7", Run(duration=0.1, exit_code=7, output=((0.0, "about to fail"),))),
    "babbles": (
        "seq 1 30000; echo end",
        Run(duration=0.1, output=tuple((0.0, text) for text in [*map(str, range(1, 30001)), "end"])),
    ),
    "floods": ("yes $(head -c 9000 /dev/zero | tr '\\0' x) | head -n 2000; echo end", Run()),
    "drones": ("head -c 9000000 /dev/zero | tr '\\0' x; echo; echo end", Run()),
    "writes": ("seq 1 100000 > /files/numbers", Run(duration=0.2)),
    "lingers": (
        "trap 'exit 0' TERM; echo here; while :; do sleep .1; done",
        Run(output=((0.0, "here"),)),
    ),
}


class NoLink:
    """A link that needs no help: the socket is on this machine."""

    def ensure(self) -> None:
        pass


@dataclass
class Subject:
    """A swarm and the clock it lives by."""

    swarm: Swarm
    clock: Clock
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def spec(self, behaviour: str, *, replicas: int = 2, name: str = "") -> Spec:
        """A replicated service that behaves in a known way."""
        return {
            "Name": name or f"s{next(self.numbers)}-{behaviour}",
            "Labels": {BEHAVIOUR: behaviour},
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": IMAGE,
                    "Command": ["sh", "-c", BEHAVIOURS[behaviour][0]],
                    "StopGracePeriod": 30 * SECOND,
                },
                "RestartPolicy": {"Condition": "any", "Delay": SECOND // 2},
            },
            "Mode": {"Replicated": {"Replicas": replicas}},
            "UpdateConfig": {
                "Parallelism": 0,
                "Order": "start-first",
                "FailureAction": "pause",
                "Monitor": 2 * SECOND,
                "MaxFailureRatio": 0,
            },
        }

    def job(self, behaviour: str) -> Spec:
        """A one-off job that behaves in a known way, with one attempt."""
        spec = self.spec(behaviour)
        spec["TaskTemplate"]["RestartPolicy"] = {"Condition": "none"}
        del spec["UpdateConfig"]
        return spec | {"Mode": ONE_TASK}

    def create(self, spec: Spec) -> Service:
        self.swarm.create_service(spec)
        return self.read(spec["Name"])

    def read(self, name: str) -> Service:
        service = self.swarm.service(name)
        assert service is not None
        return service

    def change(self, name: str, edit: Callable[[Spec], None]) -> Service:
        """Read, change, write: again when swarm itself changed the service in between, as it does during updates."""
        while True:
            service = self.read(name)
            spec = copy.deepcopy(service.spec)
            edit(spec)
            try:
                self.swarm.update_service(service, spec)
            except Conflict:
                continue
            return self.read(name)

    def scale(self, name: str, replicas: int) -> Service:
        def edit(spec: Spec) -> None:
            spec["Mode"]["Replicated"]["Replicas"] = replicas

        return self.change(name, edit)

    def behave(self, name: str, behaviour: str) -> Service:
        """Another version of the service, in effect."""

        def edit(spec: Spec) -> None:
            spec["Labels"][BEHAVIOUR] = behaviour
            spec["TaskTemplate"]["ContainerSpec"]["Command"] = ["sh", "-c", BEHAVIOURS[behaviour][0]]

        return self.change(name, edit)

    def wait(self, condition: Callable[[], bool], timeout: float = TIMEOUT) -> float:
        """Wait for it; the seconds it took."""
        began = self.clock.monotonic()
        while not condition():
            assert self.clock.monotonic() < began + timeout, f"waited {timeout:.0f} s in vain"
            self.clock.sleep(0.1)
        return self.clock.monotonic() - began

    def running(self, service: Service) -> list[Task]:
        return [task for task in self.swarm.tasks(service) if (task.state, task.desired) == ("running", "running")]

    def ended(self, service: Service) -> list[Task]:
        """The tasks of a job once all have ended."""
        self.wait(lambda: bool(self.swarm.tasks(service)))
        self.drained(service)
        return self.swarm.tasks(service)

    def drained(self, service: Service) -> float:
        """Wait until every task of the service has ended; the seconds it took."""
        return self.wait(lambda: all(task.ended for task in self.swarm.tasks(service)))


@pytest.fixture(scope="session")
def engine_socket() -> Iterator[Path]:
    with private_engine() as socket:
        yield socket


@pytest.fixture(params=["fake", "real"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """A swarm without services and configs of the test's."""
    if request.param == "fake":
        clock = FakeClock()
        fake = FakeSwarm(clock)
        fake.images[IMAGE] = lambda spec: BEHAVIOURS[spec["Labels"][BEHAVIOUR]][1]
        yield Subject(swarm=fake, clock=clock)
        return
    real = DockerSwarm(f"unix://{request.getfixturevalue('engine_socket')}", NoLink(), time)
    subject = Subject(swarm=real, clock=time)
    yield subject
    for service in real.services(BEHAVIOUR):
        real.remove_service(service)
        real.stop_containers(service, 1.0)
        subject.drained(service)
    journal = real.config("journal")
    if journal is not None:
        real.remove_config(journal)
    real.close()


def test_engine__says_who_and_when_it_is(subject: Subject) -> None:
    """The engine is an active manager, is among the nodes, and its clock can be read."""
    engine = subject.swarm.engine()
    assert (engine.swarm, engine.manager) == ("active", True)
    node = next(node for node in subject.swarm.nodes() if node.id == engine.node_id)
    assert (node.ready, node.active, node.manager) == (True, True, True)
    assert node.platform.startswith("linux/")
    assert subject.swarm.engine().time >= engine.time > 1_700_000_000


def test_service__found_by_its_full_name_only(subject: Subject) -> None:
    """Neither an ID nor the beginning of a name or an ID counts as a service's name."""
    service = subject.create(subject.spec("serves", name="worker-a", replicas=0))
    assert subject.read("worker-a").id == service.id
    for other in ("worker", "worker-", "worker-ab", service.id, service.id[:4]):
        assert subject.swarm.service(other) is None


def test_services__by_label(subject: Subject) -> None:
    """A label finds services by its key, or by key and value."""
    name = subject.create(subject.spec("serves", replicas=0)).name
    assert [service.name for service in subject.swarm.services(BEHAVIOUR)] == [name]
    assert [service.name for service in subject.swarm.services(f"{BEHAVIOUR}=serves")] == [name]
    assert subject.swarm.services(f"{BEHAVIOUR}=other") == []
    assert subject.swarm.services("nobody.has.this") == []


def test_create_service__name_is_taken(subject: Subject) -> None:
    """A name has one winner."""
    spec = subject.spec("serves", replicas=0)
    subject.create(spec)
    with pytest.raises(Exists):
        subject.swarm.create_service(spec)


def test_update_service__of_two_that_read_the_same_one_wins(subject: Subject) -> None:
    """An update from a stale read is a Conflict, and changes nothing."""
    service = subject.create(subject.spec("serves", replicas=0))
    first, second = copy.deepcopy(service.spec), copy.deepcopy(service.spec)
    first["Labels"]["who"], second["Labels"]["who"] = "first", "second"
    subject.swarm.update_service(service, first)
    with pytest.raises(Conflict):
        subject.swarm.update_service(service, second)
    assert subject.read(service.name).spec["Labels"]["who"] == "first"


def test_update_service__gone(subject: Subject) -> None:
    """An update of a service that was removed is refused."""
    service = subject.create(subject.spec("serves", replicas=0))
    subject.swarm.remove_service(service)
    with pytest.raises(EngineRefused) as refused:
        subject.swarm.update_service(service, service.spec)
    assert refused.value.status == 404


def test_scale__changes_nothing_but_replicas(subject: Subject) -> None:
    """A spec that is read, scaled and written back keeps every other field, and the tasks that ran run on."""
    spec = subject.spec("serves", replicas=1)
    spec["Labels"]["note"] = "kept"
    spec["TaskTemplate"]["ContainerSpec"] |= {
        "Env": ["A=1", "EMPTY=", 'QUOTED="x" $HOME'],
        "Labels": {"randomLabelForceUpdate": "abc"},
        "CapabilityDrop": ["CAP_NET_RAW"],
        "Sysctls": {"net.ipv4.ip_unprivileged_port_start": "1024"},
    }
    spec["TaskTemplate"]["Placement"] = {"Constraints": ["node.role==manager"]}
    spec["TaskTemplate"]["ForceUpdate"] = 3
    spec["RollbackConfig"] = {"Parallelism": 1, "Order": "stop-first", "FailureAction": "pause", "MaxFailureRatio": 0}
    spec["EndpointSpec"] = {"Mode": "dnsrr"}
    before = subject.create(spec)
    subject.wait(lambda: len(subject.running(before)) == 1)
    kept = subject.running(before)[0]

    after = subject.scale(before.name, 3)

    assert after.replicas == 3
    expected = copy.deepcopy(before.spec)
    expected["Mode"]["Replicated"]["Replicas"] = 3
    assert after.spec == expected
    assert {key: spec[key] for key in ("Labels", "RollbackConfig", "EndpointSpec")} == {
        key: after.spec[key] for key in ("Labels", "RollbackConfig", "EndpointSpec")
    }
    subject.wait(lambda: len(subject.running(after)) == 3)
    assert kept.id in {task.id for task in subject.running(after)}


def test_scale_to_zero__tasks_are_seen_until_they_end(subject: Subject) -> None:
    """Tasks that are to stop are still listed as running while they do; drained means that all have ended."""
    service = subject.create(subject.spec("stubborn"))
    subject.wait(lambda: len(subject.running(service)) == 2)
    subject.scale(service.name, 0)
    subject.wait(lambda: subject.running(service) == [])
    assert [(task.ended, task.desired) for task in subject.swarm.tasks(service)] == [(False, "remove")] * 2
    subject.swarm.stop_containers(service, 1.0)
    subject.drained(service)


def test_stop_containers__ends_what_would_take_its_time(subject: Subject) -> None:
    """The grace period that is asked for counts, not the longer one of the service."""
    service = subject.create(subject.spec("stubborn"))
    subject.wait(lambda: len(subject.running(service)) == 2)
    subject.scale(service.name, 0)
    assert subject.swarm.stop_containers(service, 1.0) == 2
    assert subject.drained(service) < 25.0  # alone, swarm would give them 30 s
    assert subject.swarm.stop_containers(service, 1.0) == 0


def test_stop_containers__those_still_wanted_come_back(subject: Subject) -> None:
    """Stopping containers without scaling first is no way to stop a service."""
    service = subject.create(subject.spec("serves", replicas=1))
    subject.wait(lambda: len(subject.running(service)) == 1)
    first = subject.running(service)[0]
    assert subject.swarm.stop_containers(service, 1.0) == 1
    subject.wait(lambda: any(task.id != first.id for task in subject.running(service)))


def test_remove_service__tasks_are_seen_until_they_end(subject: Subject) -> None:
    """A service that is gone may have processes still: its tasks are found all the same."""
    service = subject.create(subject.spec("stubborn", replicas=1))
    subject.wait(lambda: len(subject.running(service)) == 1)
    subject.swarm.remove_service(service)
    assert subject.swarm.service(service.name) is None
    assert [task.ended for task in subject.swarm.tasks(service)] == [False]
    assert subject.swarm.logs(service) == []
    assert subject.swarm.stop_containers(service, 1.0) == 1
    subject.drained(service)
    subject.swarm.remove_service(service)


def test_remove_service__leaves_no_container_of_a_job(engine_socket: Path) -> None:
    """Swarm alone would leave an ended job's container on the node, with its environment."""
    swarm = DockerSwarm(f"unix://{engine_socket}", NoLink(), time)
    subject = Subject(swarm=swarm, clock=time)
    job = subject.create(subject.job("counts"))
    subject.ended(job)
    engine = docker.DockerClient(base_url=f"unix://{engine_socket}")
    try:
        of_job: dict[str, str | list[str] | bool] = {"label": f"com.docker.swarm.service.id={job.id}"}
        assert len(engine.containers.list(all=True, filters=of_job)) == 1
        swarm.remove_service(job)
        assert engine.containers.list(all=True, filters=of_job) == []
    finally:
        engine.close()
        swarm.close()


def test_job__succeeds_with_its_output_in_order(subject: Subject) -> None:
    """A job runs once; its exit code and its whole output are there when it has ended."""
    job = subject.create(subject.job("counts"))
    [task] = subject.ended(job)
    assert (task.state, task.exit_code, task.desired) == ("complete", 0, "complete")
    assert [line.text for line in subject.swarm.logs(job)] == ["one", "two", "three"]


def test_job__prepared_does_nothing_until_it_is_begun(subject: Subject) -> None:
    """A job without a completion has no task, while a later job runs to its end; given one, it runs once."""
    prepared = subject.create(subject.job("counts") | {"Mode": NO_TASK})
    assert prepared.spec["Mode"] == NO_TASK
    subject.ended(subject.create(subject.job("fails")))
    assert subject.swarm.tasks(prepared) == []
    begun = subject.change(prepared.name, lambda spec: spec.update(Mode=ONE_TASK))
    assert begun.spec["Mode"] == ONE_TASK
    [task] = subject.ended(begun)
    assert (task.state, task.exit_code) == ("complete", 0)
    assert [line.text for line in subject.swarm.logs(begun)] == ["one", "two", "three"]


def test_job__prepared_is_kept_from_beginning_by_any_change(subject: Subject) -> None:
    """Also one that changes nothing gives it another version, so that an earlier request to begin it is refused."""
    prepared = subject.create(subject.job("counts") | {"Mode": NO_TASK})
    changed = subject.change(prepared.name, lambda spec: None)
    assert changed.version > prepared.version
    with pytest.raises(Conflict):
        subject.swarm.update_service(prepared, {**prepared.spec, "Mode": ONE_TASK})
    assert subject.read(prepared.name).spec["Mode"] == NO_TASK
    subject.swarm.remove_service(changed)
    assert subject.swarm.tasks(prepared) == []


def test_job__fails_once(subject: Subject) -> None:
    """A failed job is not tried again, and tells its exit code."""
    job = subject.create(subject.job("fails"))
    [task] = subject.ended(job)
    assert (task.state, task.exit_code) == ("failed", 7)
    assert "7" in task.error
    assert [line.text for line in subject.swarm.logs(job)] == ["about to fail"]
    subject.clock.sleep(1.0)
    assert [again.id for again in subject.swarm.tasks(job)] == [task.id]


def test_job__runs_once_on_every_node(subject: Subject) -> None:
    """A global job has one task per node."""
    spec = subject.job("counts") | {"Mode": {"GlobalJob": {}}}
    job = subject.create(spec)
    tasks = subject.ended(job)
    assert [task.node_id for task in tasks] == [node.id for node in subject.swarm.nodes()]
    assert [task.exit_code for task in tasks] == [0]


def test_job__image_is_missing(subject: Subject) -> None:
    """A task whose image cannot be had is rejected, with the reason and without an exit code."""
    spec = subject.job("counts")
    spec["TaskTemplate"]["ContainerSpec"]["Image"] = "127.0.0.1:1/missing:1"
    [task] = subject.ended(subject.create(spec))
    assert (task.state, task.exit_code) == ("rejected", None)
    assert task.error


def test_job__nowhere_to_run(subject: Subject) -> None:
    """A placement that no node meets leaves a task pending, with the reason, for ever; removing the job ends it."""
    spec = subject.job("counts")
    spec["TaskTemplate"]["Placement"] = {"Constraints": ["node.labels.none==here"]}
    job = subject.create(spec)
    subject.wait(lambda: any("no suitable node" in task.error for task in subject.swarm.tasks(job)))
    subject.clock.sleep(1.0)
    [task] = subject.swarm.tasks(job)
    assert (task.state, task.exit_code, task.node_id) == ("pending", None, "")
    subject.swarm.remove_service(job)
    subject.drained(job)


@pytest.mark.parametrize("mode", [ONE_TASK, {"GlobalJob": {}}])
def test_job__removed_while_it_runs(subject: Subject, mode: Spec) -> None:
    """Removing a job stops it, in either mode."""
    job = subject.create(subject.job("lingers") | {"Mode": mode})
    subject.wait(lambda: [task.state for task in subject.swarm.tasks(job)] == ["running"])
    subject.swarm.remove_service(job)
    assert subject.swarm.service(job.name) is None
    assert [task.desired for task in subject.swarm.tasks(job)] in ([], ["remove"])
    subject.drained(job)


def test_logs__only_what_is_new(subject: Subject) -> None:
    """A stamp given back yields only what was printed after it, to the nanosecond."""
    job = subject.create(subject.job("counts"))
    subject.ended(job)
    one, two, three = subject.swarm.logs(job)
    assert one.stamp < two.stamp < three.stamp
    assert subject.swarm.logs(job, one.stamp) == [two, three]
    assert subject.swarm.logs(job, three.stamp) == []


def test_logs__the_last_of_too_many(subject: Subject) -> None:
    """Of what a job prints without end the last comes, with a word about the rest."""
    job = subject.create(subject.job("babbles"))
    subject.ended(job)
    shown = [line.text for line in subject.swarm.logs(job)]
    assert shown == [LEFT_OUT, *map(str, range(30002 - MOST_PIECES, 30001)), "end"]


@pytest.mark.parametrize(
    ("behaviour", "least", "most"),
    [("floods", 2000 * 9000, 2000 * 9000), ("drones", MOST_BYTES - LONGEST_LINE, 9_000_000)],
)
def test_logs__of_long_lines(engine_socket: Path, behaviour: str, least: int, most: int) -> None:
    """No more is taken at once than memory should hold; the next look goes on behind that, to the end."""
    swarm = DockerSwarm(f"unix://{engine_socket}", NoLink(), time)
    subject = Subject(swarm=swarm, clock=time)
    job = subject.create(subject.job(behaviour))
    subject.ended(job)
    looks: list[list[LogLine]] = []
    while lines := swarm.logs(job, looks[-1][-1].stamp if looks else ""):
        looks.append(lines)
    *long, end = [line.text for look in looks for line in look]
    assert end == "end"
    assert set("".join(long)) == {"x"}
    assert least <= len("".join(long)) <= most
    assert max(sum(len(line.text) for line in look) for look in looks) < MOST_BYTES + 100_000
    swarm.close()


def test_logs__do_not_wait_for_the_end(subject: Subject) -> None:
    """What a job has printed can be read while it runs."""
    job = subject.create(subject.job("lingers"))
    subject.wait(lambda: bool(subject.swarm.logs(job)))
    assert [line.text for line in subject.swarm.logs(job)] == ["here"]
    [task] = subject.swarm.tasks(job)
    assert (task.ended, task.exit_code) == (False, None)


def test_tasks__later_ones_sort_after_earlier_ones(subject: Subject) -> None:
    """The times of creation compare as text."""
    service = subject.create(subject.spec("serves", replicas=1))
    subject.wait(lambda: len(subject.running(service)) == 1)
    first = subject.running(service)
    subject.scale(service.name, 2)
    subject.wait(lambda: len(subject.swarm.tasks(service)) == 2)
    second = [task for task in subject.swarm.tasks(service) if task.id != first[0].id]
    assert first[0].created < second[0].created
    assert len(first[0].created) == len(second[0].created) == len("2026-01-01T00:00:00.000000000Z")


def test_crash__from_zero_is_a_silent_restart_loop(subject: Subject) -> None:
    """No update status tells that a version which starts from zero replicas keeps crashing; the tasks do."""
    service = subject.create(subject.spec("serves", replicas=0))
    subject.behave(service.name, "crashes")
    subject.scale(service.name, 1)
    subject.wait(lambda: sum(task.state == "failed" for task in subject.swarm.tasks(service)) >= 2)
    failed = [task for task in subject.swarm.tasks(service) if task.state == "failed"]
    assert {task.exit_code for task in failed} == {3}
    subject.wait(lambda: any(not task.ended for task in subject.swarm.tasks(service)))
    assert subject.read(service.name).update_state == ""


def test_update__completes(subject: Subject) -> None:
    """Replacing running tasks is an update that ends as completed, each task with its own end."""
    service = subject.create(subject.spec("serves"))
    subject.wait(lambda: len(subject.running(service)) == 2)
    old = {task.id for task in subject.running(service)}
    subject.behave(service.name, "lingers")
    subject.wait(lambda: subject.read(service.name).update_state == "completed")
    subject.wait(lambda: len(subject.running(service)) == 2)
    assert not {task.id for task in subject.running(service)} & old


def test_update__pauses_on_failure(subject: Subject) -> None:
    """A version that crashes pauses the update, and the old tasks are stopped all the same."""
    service = subject.create(subject.spec("serves"))
    subject.wait(lambda: len(subject.running(service)) == 2)
    old = {task.id for task in subject.running(service)}
    subject.behave(service.name, "crashes")
    subject.wait(lambda: subject.read(service.name).update_state == "paused")
    assert "failure" in subject.read(service.name).update_message
    subject.wait(lambda: all(task.ended for task in subject.swarm.tasks(service) if task.id in old))


def test_update__rolls_back_on_failure(subject: Subject) -> None:
    """With that failure action swarm puts the former spec back by itself."""
    spec = subject.spec("serves")
    spec["UpdateConfig"]["FailureAction"] = "rollback"
    service = subject.create(spec)
    subject.wait(lambda: len(subject.running(service)) == 2)
    subject.behave(service.name, "crashes")
    subject.wait(lambda: subject.read(service.name).update_state == "rollback_completed")
    assert subject.read(service.name).spec == service.spec
    subject.wait(lambda: len(subject.running(service)) == 2)


def test_update__missing_image_leaves_the_old_tasks(subject: Subject) -> None:
    """Start-first tasks that are rejected replace nothing."""
    service = subject.create(subject.spec("serves"))
    subject.wait(lambda: len(subject.running(service)) == 2)
    old = {task.id for task in subject.running(service)}

    def edit(spec: Spec) -> None:
        spec["TaskTemplate"]["ContainerSpec"]["Image"] = "127.0.0.1:1/missing:1"

    subject.change(service.name, edit)
    subject.wait(lambda: subject.read(service.name).update_state == "paused")
    assert {task.id for task in subject.running(service)} == old


def test_resolve__registry_does_not_have_it(subject: Subject) -> None:
    """An image that cannot be had is refused with a reason."""
    with pytest.raises(EngineRefused) as refused:
        subject.swarm.resolve("127.0.0.1:1/missing:1")
    assert refused.value.what


def test_config__one_of_several_creators_wins(subject: Subject) -> None:
    """A config's name is a lock."""
    assert subject.swarm.config("journal") is None
    subject.swarm.create_config("journal", {"holder": "first"})
    with pytest.raises(Exists):
        subject.swarm.create_config("journal", {"holder": "second"})
    config = subject.swarm.config("journal")
    assert config is not None
    assert config.labels == {"holder": "first"}
    assert subject.swarm.config("journ") is None


def test_config__labels_are_replaced_by_compare_and_swap(subject: Subject) -> None:
    """Whoever read an older version loses, also after the config was made anew under its name."""
    subject.swarm.create_config("journal", {"phase": "one", "note": "x"})
    old = subject.swarm.config("journal")
    assert old is not None
    subject.swarm.update_config(old, {"phase": "two"})
    with pytest.raises(Conflict):
        subject.swarm.update_config(old, {"phase": "three"})
    new = subject.swarm.config("journal")
    assert new is not None
    assert (new.id, new.labels) == (old.id, {"phase": "two"})
    subject.swarm.remove_config(new)
    with pytest.raises(EngineRefused):
        subject.swarm.update_config(new, {"phase": "four"})


def test_remove_config__twice_is_fine_and_never_takes_a_namesake(subject: Subject) -> None:
    """Removal is by ID: a config that was made anew under the same name stays."""
    subject.swarm.create_config("journal", {"holder": "first"})
    first = subject.swarm.config("journal")
    assert first is not None
    subject.swarm.remove_config(first)
    subject.swarm.create_config("journal", {"holder": "second"})
    subject.swarm.remove_config(first)
    second = subject.swarm.config("journal")
    assert second is not None
    assert second.labels == {"holder": "second"}


NUMBERS = "".join(f"{number}\n" for number in range(1, 100001)).encode()


@pytest.fixture
def filled(subject: Subject) -> Subject:
    """A swarm whose node has the volume `numbers`, in which there is a file."""
    job = subject.job("writes")
    mount = {"Type": "volume", "Source": "numbers", "Target": "/files"}
    job["TaskTemplate"]["ContainerSpec"]["Mounts"] = [mount]
    (task,) = subject.ended(subject.create(job))
    assert task.exit_code == 0
    if isinstance(subject.swarm, FakeSwarm):
        subject.swarm.direct.files["numbers", "numbers"] = NUMBERS
    return subject


def test_file_of_volume__comes_whole(filled: Subject) -> None:
    """Piece by piece, its size first; again under the same name, as after a process that died in between."""
    for _ in range(2):
        with filled.swarm.file_of_volume("numbers", "numbers", image=IMAGE, name="reader") as file:
            pieces = list(file.pieces)
        assert file.size == len(NUMBERS)
        assert b"".join(pieces) == NUMBERS
        assert max(map(len, pieces)) <= 64 * 1024


def test_file_of_volume__that_is_not_there(filled: Subject) -> None:
    """Neither a missing file nor a missing image is waited for."""
    for path, image in (("other", IMAGE), ("numbers", "no-such-image:1")):
        with (
            pytest.raises(EngineRefused) as caught,
            filled.swarm.file_of_volume("numbers", path, image=image, name="reader"),
        ):
            pass
        assert caught.value.status == 404


def test_file_of_volume__leaves_no_container(filled: Subject, engine_socket: Path) -> None:
    """Neither read to its end, nor given up half-way, nor failed."""
    swarm = DockerSwarm(f"unix://{engine_socket}", NoLink(), time)
    for path in ("numbers", "other"):
        with suppress(EngineRefused), swarm.file_of_volume("numbers", path, image=IMAGE, name="reader") as file:
            next(file.pieces)
    client = docker.APIClient(base_url=f"unix://{engine_socket}")
    try:
        assert [each for each in client.containers(all=True) if "/reader" in each["Names"]] == []
    finally:
        client.close()
        swarm.close()
