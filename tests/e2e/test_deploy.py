"""Deploys that work, from the image that the runner builds to what the app's users see."""

from __future__ import annotations

from tests.e2e.world import Before, left_behind, told
from tests.sandbox.app import DemoApp
from tests.sandbox.runner import Step


def test_deploy__migrates_while_nothing_runs(app: DemoApp, step: Step) -> None:
    """No instance answers while the migration runs, and afterwards the new version serves the migrated rows."""
    before = Before.of(app)
    with app.prober() as prober:
        result = step.run(app.inputs("v2", stable_for="1s"))
        post = step.post()
        prober.wait_for("v2 to serve", lambda sample: sample.status == 200 and sample.version == "v2", count=10)
        samples = prober.samples()
    assert result.exit_code == 0, told(result)
    outputs = dict(result.outputs)
    downtime = float(outputs.pop("downtime-seconds"))
    assert 0 < downtime < 60
    summary = outputs.pop("summary")
    assert summary.startswith(f"{app.name}: deployed {app.sandbox.image('v2')}; schema migrated; down for "), summary
    assert outputs == {
        "result": "deployed",
        "failed-phase": "",
        "migration-ran": "true",
        "migration-exit-code": "0",
        "schema-state": "migrated",
        "previous-image": app.sandbox.image("v1"),
        "deployed-image": app.sandbox.image("v2"),
    }
    assert result.summary.startswith(f"## `{app.name}` ✅ deployed")
    assert "  migration │ the database is at schema 2" in result.log
    assert "::error" not in result.log
    assert (post.exit_code, post.log) == (0, "")
    assert (app.schema(), app.rows()) == ("2", before.rows)
    assert app.running() == [app.sandbox.image("v2")] * 2
    before.assert_only_image_differs("v2")
    assert left_behind(app.sandbox) == []
    # Whoever got an answer got the one version that fits the schema: old and new never served side by side.
    assert {sample.version for sample in samples if sample.status} == {"v1", "v2"}
    assert {sample.status for sample in samples} == {200, 0}
    first_of_v2 = next(index for index, sample in enumerate(samples) if sample.version == "v2")
    assert all(sample.version != "v1" for sample in samples[first_of_v2:])
