"""`make demo`: a deploy that migrates, and one whose migration destroys rows and fails, both with a backup.

By the action's own image, in the sandbox. NODES=2 adds a worker to the swarm. KEEP=1 leaves it running.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.sandbox.app import DemoApp
from tests.sandbox.engine import timed
from tests.sandbox.prober import Prober, Sample
from tests.sandbox.runner import Action, Step
from tests.sandbox.sandbox import Sandbox


def main() -> None:
    sandbox = Sandbox.up(nodes=int(os.environ.get("NODES") or 1))
    try:
        with timed("build the action's image"):
            action = Action.build(Path(__file__).parents[2])
        try:
            with timed("an app with two instances of v1 and a database at schema 1"):
                app = DemoApp.create(sandbox)
                app.wait_until_served()
            with app.prober() as prober:
                show(app)
                deploy(action, app, "v2", prober)
                deploy(action, app, "v3-fails", prober)
        finally:
            action.remove()
        if os.environ.get("KEEP"):
            print(f"\nThe sandbox runs on. Look at it:  export DOCKER_HOST=unix://{sandbox.nodes[0].socket}")
            print("Remove it:  make down")
    finally:
        if os.environ.get("KEEP"):
            sandbox.close()
        else:
            sandbox.down()


def deploy(action: Action, app: DemoApp, version: str, prober: Prober) -> None:
    """Deploy a version, and show all that a user of the action and a user of the app see of it."""
    title(f"The action deploys {version}")
    seen = len(prober.samples())
    with Step(action, app.place.network) as step:
        result = step.run(app.inputs(version, backup="auto"))
        after = step.post()
    print(result.log)
    title(f"The step ended with exit code {result.exit_code}, and these outputs")
    for name, value in result.outputs.items():
        print(f"{name}: {value}")
    title("Its job summary")
    print(result.summary.rstrip())
    title(f"The post step: exit code {after.exit_code}")
    print(after.log)
    title("What the app's users saw meanwhile")
    prober.wait_for("the app to serve again", lambda sample: sample.status == 200, count=20)
    for line in story(prober.samples()[seen:]):
        print(line)
    show(app)


def show(app: DemoApp) -> None:
    title(f"{app.name} now")
    print(f"runs {', '.join(app.running())}; the database is at schema {app.schema()} and has {app.rows()} rows")


def story(samples: list[Sample]) -> list[str]:
    """One line for each stretch of equal answers."""
    lines = []
    first = 0
    for index, sample in enumerate(samples):
        if index + 1 == len(samples) or kind(samples[index + 1]) != kind(sample):
            lasted = sample.at + sample.took - samples[first].at
            since = samples[first].at - samples[0].at
            lines.append(f"{since:6.1f} s  for {lasted:5.1f} s  {index + 1 - first:4} × {kind(sample)}")
            first = index + 1
    return lines


def kind(sample: Sample) -> str:
    if not sample.status:
        return "no answer"
    return f"{sample.status} from {sample.version} on schema {sample.schema or 'unknown'}, {sample.rows} rows"


def title(text: str) -> None:
    print(f"\n=== {text}", flush=True)


if __name__ == "__main__":
    main()
