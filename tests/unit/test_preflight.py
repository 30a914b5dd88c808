"""What preflight refuses, told once and by the name of the input at fault."""

from __future__ import annotations

from dataclasses import replace

import pytest

from capmig.errors import Refused
from capmig.preflight import check_images
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
