"""The backup's copy in the workspace: whole and checked, or not there, and the end of the run says which."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from capmig import endings
from capmig.backup import by_hand as by_hand_acts
from capmig.backup.download import TRIES, Copied, fetch, landing
from capmig.backup.inputs import Backup, Download, Engine
from capmig.backup.tool import VOLUME
from capmig.deploy import carry_out
from capmig.errors import DeployFailed, EngineRefused, LinkLost, Refused
from capmig.hand import Hand
from capmig.inputs import Inputs
from capmig.preflight import look
from capmig.report import outputs
from tests.fakes.database import DUMP, Database
from tests.fakes.log import RecordingLog
from tests.fakes.swarm import Run, fake_node
from tests.fakes.world import NEW, OLD, inputs


def asked(workspace: Path, name: str = "backups/shop.dump") -> Inputs:
    backup = Backup(engine=Engine.AUTO, source="", image="", timeout=60.0, keep=5, restore=True)
    return replace(inputs(backup=backup), download=Download(path=workspace / name, workspace=workspace))


def deployed(
    world: Database, hand: Hand, given: Inputs, cancelled: Callable[[], bool] = lambda: False
) -> endings.Ended:
    """A deploy and what main does after it."""
    report = world.deploy(given, hand)
    assert given.download is not None
    copied = fetch(hand, given.download, timeout=60.0, cancelled=cancelled)
    return endings.of_deploy(report, hand.timeline.stages(), copied)


def parts(workspace: Path) -> list[Path]:
    """All files there are, finished or not."""
    return [path for path in workspace.rglob("*") if path.is_file()]


def log_of(hand: Hand) -> str:
    assert isinstance(hand.log, RecordingLog)
    return hand.log.text


def test_download__of_a_good_deploy(tmp_path: Path) -> None:
    """The file is what the volume holds, for its owner only; it comes after the app runs and the lock is given back."""
    world = Database()
    seen: list[tuple[list[str], bool]] = []

    def look_at(name: str, args: object) -> None:
        if name == "piece":
            seen.append((world.running, world.journal is None))

    world.swarm.before_call = look_at
    ended = deployed(world, world.hand(), asked(tmp_path))
    assert (ended.exit_code, ended.outcome.result) == (0, "deployed")
    assert outputs(ended.outcome)["backup-file"] == "backups/shop.dump"
    file = tmp_path / "backups/shop.dump"
    assert file.read_bytes() == DUMP
    assert file.stat().st_mode & 0o777 == 0o600
    assert parts(tmp_path) == [file]
    assert len(seen) > 10
    assert all(each == ([NEW, NEW], True) for each in seen)


def test_download__after_a_failed_migration(tmp_path: Path) -> None:
    """The old version runs again on the restored database, and the backup is at hand."""
    world = Database()
    world.new_image(migration=Run(duration=3.0, exit_code=1))
    ended = deployed(world, world.hand(), asked(tmp_path))
    assert (ended.exit_code, ended.outcome.result) == (1, "restored")
    assert ended.outcome.backup_file == "backups/shop.dump"
    assert (tmp_path / "backups/shop.dump").read_bytes() == DUMP


def test_download__of_what_a_restore_by_hand_kept(tmp_path: Path) -> None:
    """Of the two backups that are in play it is the one that this run made."""
    world = Database()
    wanted = "web/20260102T030405Z-web-1.dump"
    world.swarm.direct.files[VOLUME, wanted] = b"another one"
    world.backups[wanted] = 1
    world.jobs_do["list"] = Run(duration=1.0, output=((0.5, f"capmig: backup={wanted} bytes=11"),))
    given = replace(asked(tmp_path), backup_id=wanted)
    hand = world.hand()
    carry_out(hand, lambda: look(world.swarm, given), by_hand_acts.restore)
    assert given.download is not None
    assert fetch(hand, given.download, timeout=60.0, cancelled=lambda: False) == Copied(file="backups/shop.dump")
    assert (tmp_path / "backups/shop.dump").read_bytes() == DUMP


def test_download__of_nothing(tmp_path: Path) -> None:
    """A deploy that failed before its backup has nothing to copy, and that is no second failure."""
    world = Database()
    world.jobs_do["check"] = Run(duration=1.0, exit_code=1)
    ended = deployed(world, world.hand(), asked(tmp_path))
    assert ended.outcome.result == "failed"
    assert "download" not in ended.outcome.error
    assert parts(tmp_path) == []


def breaks(world: Database, times: int) -> None:
    """The link is lost in the middle of a file, so many times."""
    left = [times]
    heard = [0]

    def hook(name: str, args: object) -> None:
        heard[0] = heard[0] + 1 if name == "piece" else 0
        if left[0] and heard[0] == 5:
            left[0] -= 1
            raise LinkLost("The SSH connection is lost.")

    world.swarm.before_call = hook


def test_download__begins_again_over_a_lost_link(tmp_path: Path) -> None:
    """What came before is thrown away, and the whole comes."""
    world = Database()
    breaks(world, TRIES - 1)
    hand = world.hand()
    ended = deployed(world, hand, asked(tmp_path))
    assert ended.exit_code == 0
    assert (tmp_path / "backups/shop.dump").read_bytes() == DUMP
    assert log_of(hand).count("The download begins again: The SSH connection is lost.") == TRIES - 1


def test_download__that_fails_fails_the_step_of_a_good_deploy(tmp_path: Path) -> None:
    """The app is deployed, the step is red, and the message says both, and where the backup is."""
    world = Database()
    breaks(world, TRIES)
    ended = deployed(world, world.hand(), asked(tmp_path))
    assert (ended.exit_code, ended.outcome.result, ended.outcome.deployed_image) == (1, "deployed", NEW)
    assert "was not downloaded: The SSH connection is lost." in ended.outcome.error
    assert f"in the volume {VOLUME} on the node node1, as web/20" in ended.outcome.error
    assert ended.outcome.state == f"{NEW} is deployed and runs."
    assert ended.outcome.backup_file == ""
    assert parts(tmp_path) == []


def test_download__that_fails_after_a_failed_deploy(tmp_path: Path) -> None:
    """The deploy's own failure stays the story, with its exit code and its state."""
    world = Database()
    world.new_image(migration=Run(duration=3.0, exit_code=1))
    breaks(world, TRIES)
    ended = deployed(world, world.hand(), asked(tmp_path))
    assert (ended.exit_code, ended.outcome.result) == (1, "restored")
    assert ended.outcome.error.startswith("The migration failed (exit code 1).\nThe backup ")
    assert f"runs {OLD} again" in ended.outcome.state


@pytest.mark.parametrize("change", ["longer", "shorter", "other"])
def test_download__of_another_file_than_was_made(tmp_path: Path, change: str) -> None:
    """Neither another size nor another checksum is taken for the backup."""
    world = Database()
    content = {"longer": DUMP + b"x", "shorter": DUMP[:-1], "other": DUMP[:-1] + b"x"}[change]

    def hook(name: str, args: tuple[str, ...]) -> None:
        if name == "file_of_volume":
            world.swarm.direct.files[VOLUME, args[1]] = content

    world.swarm.before_call = hook
    ended = deployed(world, world.hand(), asked(tmp_path))
    assert ended.exit_code == 1
    assert ("checksum" if change == "other" else f"has {len(content)} bytes now") in ended.outcome.error
    assert parts(tmp_path) == []


def test_download__of_a_stream_that_ends_early(tmp_path: Path) -> None:
    """An end that came too soon is a broken link, whatever the size said."""
    world = Database()
    hand = world.hand()
    given = asked(tmp_path)
    world.deploy(given, hand)
    hand.made[-1] = replace(hand.made[-1], bytes=len(DUMP) + 1)
    world.swarm.direct.missing_bytes = 1
    assert given.download is not None
    copied = fetch(hand, given.download, timeout=600.0, cancelled=lambda: False)
    assert copied is not None
    assert f"{len(DUMP)} of {len(DUMP) + 1} bytes came" in copied.error
    assert parts(tmp_path) == []


def test_download__ends_in_time(tmp_path: Path) -> None:
    """A link that carries next to nothing does not hold the step for ever."""
    world = Database()

    def hook(name: str, args: object) -> None:
        if name == "piece":
            world.clock.sleep(10.0)

    world.swarm.before_call = hook
    ended = deployed(world, world.hand(), asked(tmp_path))
    assert ended.exit_code == 1
    assert "took longer than backup-timeout" in ended.outcome.error
    assert parts(tmp_path) == []


def test_download__says_how_far_it_is(tmp_path: Path) -> None:
    """Bytes and rate, now and then."""
    world = Database()

    def hook(name: str, args: object) -> None:
        if name == "piece":
            world.clock.sleep(1.0)

    world.swarm.before_call = hook
    hand = world.hand()
    deployed(world, hand, asked(tmp_path))
    assert "of 2 MB, 0.1 MB/s" in log_of(hand)


def test_download__is_ended_by_a_cancel(tmp_path: Path) -> None:
    """Whoever cancels the run does not wait for a big file."""
    world = Database()
    pieces: list[object] = []

    def hook(name: str, args: object) -> None:
        if name == "piece":
            pieces.append(args)

    world.swarm.before_call = hook
    ended = deployed(world, world.hand(), asked(tmp_path), cancelled=lambda: len(pieces) == 3)
    assert ended.exit_code == 1
    assert "The run was cancelled." in ended.outcome.error
    assert len(pieces) == 3
    assert parts(tmp_path) == []


def test_download__when_the_file_is_gone(tmp_path: Path) -> None:
    """What will not come back by itself is not tried again."""
    world = Database()
    asked_for: list[str] = []

    def hook(name: str, args: tuple[str, ...]) -> None:
        if name == "file_of_volume":
            asked_for.append(args[1])
            world.swarm.direct.files.clear()

    world.swarm.before_call = hook
    ended = deployed(world, world.hand(), asked(tmp_path))
    assert "Could not find the file" in ended.outcome.error
    assert len(asked_for) == 1


def test_download__only_from_the_connected_node(tmp_path: Path) -> None:
    """SQLite's backup is where the app's volume is: elsewhere it cannot be fetched, which is said before anything."""
    world = Database(nodes=[fake_node("node1"), fake_node("node2")])
    spec = world.service.spec
    template = spec["TaskTemplate"]
    template["ContainerSpec"]["Env"] = ["U=sqlite:////data/app.db"]
    template["ContainerSpec"]["Mounts"] = [{"Type": "volume", "Source": "captain--data", "Target": "/data"}]
    for node, refused in (("node2", True), ("node1", False)):
        template["Placement"]["Constraints"] = [f"node.id=={node}"]
        world.swarm.direct.update_service(world.service, spec)
        given = asked(tmp_path)
        assert given.backup is not None
        given = replace(given, backup=replace(given.backup, image="tools:1"))
        if refused:
            with pytest.raises(Refused, match="backup-download: the backup is made on the node of the app's volume"):
                look(world.swarm, given)
        else:
            assert look(world.swarm, given).tool is not None


def test_landing__takes_the_place_of_an_older_file(tmp_path: Path) -> None:
    """Until the new one is whole the old one stays; what a killed run left beside it goes."""
    wanted = Download(path=tmp_path / "x.dump", workspace=tmp_path)
    wanted.path.write_bytes(b"old")
    (tmp_path / ".x.dump.part").write_bytes(b"half of one that was killed")
    with landing(wanted, 3) as file:
        file.write(b"new")
        file.flush()
        assert wanted.path.read_bytes() == b"old"
    assert wanted.path.read_bytes() == b"new"
    assert wanted.path.stat().st_mode & 0o777 == 0o600
    assert parts(tmp_path) == [wanted.path]


def test_landing__keeps_the_older_file_when_the_new_one_fails(tmp_path: Path) -> None:
    """Whole or not at all."""
    wanted = Download(path=tmp_path / "x.dump", workspace=tmp_path)
    wanted.path.write_bytes(b"old")
    with suppress(EngineRefused), landing(wanted, 3) as file:
        file.write(b"new")
        raise EngineRefused("broken")
    assert wanted.path.read_bytes() == b"old"
    assert parts(tmp_path) == [wanted.path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, as the action's container does")
def test_landing__belongs_to_whom_the_workspace_belongs(tmp_path: Path) -> None:
    """The runner's next steps are not run by root, and have to read it; its folder too is theirs."""
    os.chown(tmp_path, 1234, 5678)
    with landing(Download(path=tmp_path / "a/b/x.dump", workspace=tmp_path), 1) as file:
        file.write(b"x")
    for each in ("a", "a/b", "a/b/x.dump"):
        found = (tmp_path / each).stat()
        assert (found.st_uid, found.st_gid) == (1234, 5678)


def test_landing__without_space(tmp_path: Path) -> None:
    """A backup that cannot fit is not begun."""
    wanted = Download(path=tmp_path / "x", workspace=tmp_path)
    with pytest.raises(DeployFailed, match="bytes are free on the runner"), landing(wanted, 2**60):
        pass
    assert parts(tmp_path) == []


def test_landing__does_not_follow_a_link_that_came_later(tmp_path: Path) -> None:
    """A link that was put there after the inputs were checked leads nowhere; nor does one in the file's own place."""
    outside, workspace = tmp_path / "outside", tmp_path / "workspace"
    outside.mkdir()
    workspace.mkdir()
    (workspace / "backups").symlink_to(outside)
    wanted = Download(path=workspace / "backups/x", workspace=workspace)
    with pytest.raises(DeployFailed, match="leads out of the workspace"), landing(wanted, 1):
        pass
    (workspace / "x").symlink_to(outside / "x")
    (workspace / ".x.part").symlink_to(outside / "part")
    with landing(Download(path=workspace / "x", workspace=workspace), 1) as file:
        file.write(b"x")
    assert list(outside.iterdir()) == []
    assert not (workspace / "x").is_symlink()
