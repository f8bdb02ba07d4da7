"""The model notices deliberate defects: a machine that cannot fail proves nothing."""

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Pipeline
from tests.model.mutations import MUTATIONS, Mutation
from tests.model.world import World


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.title)
def test_the_model_notices(world: World, mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    class Machine(Pipeline):
        pass

    Machine.world = world
    if mutation.statement:
        world.admin.execute(mutation.statement)
    else:
        mutation.apply(monkeypatch)
    chosen = settings(settings.get_profile("model"), max_examples=1_000, phases=(Phase.generate,), report_multiple_bugs=False)
    try:
        with pytest.raises(AssertionError):
            run_state_machine_as_test(Machine, settings=chosen)
    finally:
        if mutation.undo:
            world.admin.execute(mutation.undo)
