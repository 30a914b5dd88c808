"""What preflight refuses, told once and by the name of the input at fault."""

from __future__ import annotations

from dataclasses import replace

import pytest

from capmig.errors import LinkLost, Refused
from capmig.preflight import Problems, check_images
from tests.fakes.world import World, inputs


def test_check_images__unknown() -> None:
    """An image that no registry has is one problem, although the migration runs from it too."""
    with pytest.raises(Refused) as refused:
        check_images(World().swarm, inputs(image="registry/web:none"), None)
    (problem,) = refused.value.problems
    assert problem.startswith("image: registry/web:none cannot be pulled: ")


def test_check_images__unknown_migrate_image() -> None:
    """The migration's own image is told by its own name."""
    asked = inputs()
    assert asked.migration is not None
    asked = replace(asked, migration=replace(asked.migration, image="registry/migrations:none"))
    with pytest.raises(Refused) as refused:
        check_images(World().swarm, asked, None)
    (problem,) = refused.value.problems
    assert problem.startswith("migrate-image: registry/migrations:none cannot be pulled: ")


def test_problems__of_a_swarm_that_does_not_answer() -> None:
    """What the manager cannot do now is a reason not to begin, beside whatever else is wrong."""

    def look() -> None:
        raise LinkLost("The swarm has no leader.", todo="Start its managers.")

    problems = Problems("ssh-host")
    assert problems.of(look) is None
    assert problems.lines == ["ssh-host: The swarm has no leader."]
    assert problems.todo == ["Start its managers."]
