"""What all scripts of backups have in common, run by this machine's sh."""

from __future__ import annotations

import os
import subprocess

import pytest

from capmig.backup.tool import SCRIPTS

COMMON = (SCRIPTS / "common.sh").read_text(encoding="utf-8")


def start(script: str, linger: str) -> subprocess.Popen[str]:
    env = {**os.environ, "CAPMIG_LINGER": linger}
    return subprocess.Popen(["sh", "-c", f"{COMMON}\n{script}"], env=env, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("script", "status"), [("tell bytes=7", 0), ("fail it broke", 1)])
def test_linger__the_last_words_can_be_read_while_it_runs(script: str, status: int) -> None:
    """They come at once, the end only later, with the right exit code."""
    with start(script, "2") as job:
        assert job.stdout is not None
        assert job.stdout.readline().startswith("capmig: ")
        assert job.poll() is None
        assert job.wait(timeout=30.0) == status


def test_linger__not_when_it_is_stopped() -> None:
    """Whoever stops a job waits for its end."""
    with start("say here; run sleep 100", "100") as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "here\n"
        job.terminate()
        assert job.wait(timeout=30.0) == 143
