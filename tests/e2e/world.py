"""How a deploy leaves the world, as assertions that all these tests share."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

from tests.sandbox.app import DemoApp
from tests.sandbox.engine import wait_for
from tests.sandbox.runner import StepResult


@dataclass(frozen=True, kw_only=True)
class Before:
    """What was there before a deploy."""

    app: DemoApp
    spec: dict[str, Any]
    rows: int

    @classmethod
    def of(cls, app: DemoApp) -> Before:
        return cls(app=app, spec=app.spec(), rows=app.rows())

    @property
    def replicas(self) -> int:
        return int(self.spec["Mode"]["Replicated"]["Replicas"])

    @property
    def image(self) -> str:
        return str(self.spec["TaskTemplate"]["ContainerSpec"]["Image"])

    def assert_only_image_differs(self, image: str) -> None:
        """The service has this image, and otherwise the spec that it had."""
        wanted = copy.deepcopy(self.spec)
        wanted["TaskTemplate"]["ContainerSpec"]["Image"] = image
        assert settled(self.app.spec()) == settled(wanted)


def settled(spec: dict[str, Any]) -> dict[str, Any]:
    """A spec without the label that CapRover writes anew with each update."""
    spec = copy.deepcopy(spec)
    spec["TaskTemplate"]["ContainerSpec"].get("Labels", {}).pop("randomLabelForceUpdate", None)
    return spec


def assert_deployed(result: StepResult, before: Before, version: str, *, replicas: int | None = None) -> None:
    """The step says so, and the new version (or image) runs on its schema with all rows, in the spec as it was."""
    app = before.app
    image = version if "/" in version else app.place.image(version)
    replicas = before.replicas if replicas is None else replicas
    assert result.exit_code == 0, told(result)
    assert result.outputs["result"] == "deployed", told(result)
    assert "::error" not in result.raw, told(result)
    assert app.running() == [image] * replicas
    assert app.schema() == image.rpartition(":v")[2][0]
    assert app.rows() == before.rows
    before.assert_only_image_differs(image)
    assert_nothing_left(app)


def assert_back(before: Before) -> None:
    """The version from before runs again, with just the spec that it had, and serves."""
    app = before.app
    assert app.running() == [before.image] * before.replicas
    before.assert_only_image_differs(before.image)
    version = before.image.rpartition(":")[2]
    with app.prober() as prober:
        prober.wait_for(f"{version} to answer", lambda sample: sample.version == version, count=5)
    assert_nothing_left(app)


def assert_nothing_left(app: DemoApp) -> None:
    """Neither the journal nor a job of a deploy is left."""
    assert left_behind(app) == []


def left_behind(app: DemoApp) -> list[str]:
    """Services and configs that the action made for this app, and that exist."""
    found = []
    for kind in ("service", "config"):
        names = app.place.manager.execute("docker", kind, "ls", "--format={{.Name}}").split()
        found += [f"{kind} {name}" for name in names if name.startswith(f"capmig-{app.name}")]
    return found


def journal(app: DemoApp) -> dict[str, str]:
    """The labels of the app's journal, without their prefix."""
    (config,) = json.loads(app.place.manager.execute("docker", "config", "inspect", f"capmig-{app.name}"))
    return {key.removeprefix("capmig."): value for key, value in config["Spec"]["Labels"].items()}


def wait_for_phase(app: DemoApp, phase: str) -> None:
    """Wait until the app's journal says so."""
    wait_for(f"the phase {phase}", lambda: journal(app)["phase"] == phase)


def told(result: StepResult) -> str:
    """All that a failed assertion should show of a step."""
    return f"exit code {result.exit_code}\n{result.log}\n{dict(result.outputs)}\n{result.summary}"
