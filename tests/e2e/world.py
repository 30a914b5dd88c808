"""How a deploy leaves the world, as assertions that all these tests share."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

from tests.sandbox.app import DemoApp
from tests.sandbox.runner import StepResult
from tests.sandbox.sandbox import Sandbox


@dataclass(frozen=True, kw_only=True)
class Before:
    """What a failed deploy must leave as it was."""

    app: DemoApp
    spec: dict[str, Any]
    rows: int

    @classmethod
    def of(cls, app: DemoApp) -> Before:
        return cls(app=app, spec=app.spec(), rows=app.rows())

    def assert_only_image_differs(self, version: str) -> None:
        """The new version runs, with just the spec that the old one had."""
        wanted = copy.deepcopy(self.spec)
        wanted["TaskTemplate"]["ContainerSpec"]["Image"] = self.app.sandbox.image(version)
        assert settled(self.app.spec()) == settled(wanted)

    def assert_unchanged(self) -> None:
        """The service's spec is what it was."""
        assert settled(self.app.spec()) == settled(self.spec)


def settled(spec: dict[str, Any]) -> dict[str, Any]:
    """A spec without the label that CapRover writes anew with each update."""
    spec = copy.deepcopy(spec)
    spec["TaskTemplate"]["ContainerSpec"].get("Labels", {}).pop("randomLabelForceUpdate", None)
    return spec


def left_behind(sandbox: Sandbox) -> list[str]:
    """Services and configs of the action that still exist: none, once a deploy has ended."""
    node = sandbox.nodes[0]
    found = []
    for kind in ("service", "config"):
        names = node.execute("docker", kind, "ls", "--format={{.Name}}").split()
        found += [f"{kind} {name}" for name in names if name.startswith("capmig-")]
    return found


def journal(app: DemoApp) -> dict[str, str]:
    """The labels of the app's journal, without their prefix."""
    (config,) = json.loads(app.sandbox.nodes[0].execute("docker", "config", "inspect", f"capmig-{app.name}"))
    return {key.removeprefix("capmig."): value for key, value in config["Spec"]["Labels"].items()}


def told(result: StepResult) -> str:
    """All that a failed assertion should show of a step."""
    return f"exit code {result.exit_code}\n{result.log}\n{dict(result.outputs)}\n{result.summary}"
