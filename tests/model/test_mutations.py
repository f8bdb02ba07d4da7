"""The model notices deliberate defects: a machine that cannot fail proves nothing."""

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Pipeline
from tests.model.mutations import MUTATIONS, Mutation
from tests.model.profiles import is_long
from tests.model.world import DriftError, World


@pytest.mark.parametrize("mutation", [each for each in MUTATIONS if each.is_quick or is_long()], ids=lambda m: m.title)
def test_the_model_notices(world: World, mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    class Machine(Pipeline):
        pass

    Machine.world = world
    if mutation.statement:
        world.admin.execute(mutation.statement)
    else:
        mutation.apply(monkeypatch)
    # It stops at the first failure, so the number is for one that is not found.
    chosen = settings(settings.get_profile("model"), max_examples=500, phases=(Phase.generate,))
    try:
        with pytest.raises(DriftError):
            run_state_machine_as_test(Machine, settings=chosen)
    finally:
        if mutation.undo:
            world.admin.execute(mutation.undo)
