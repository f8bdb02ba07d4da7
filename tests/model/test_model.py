"""Any interleaving of people, services, faults and time ends in index = f(table), and harms no transaction."""

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Pipeline
from tests.model.world import World


def profile() -> settings:
    """The long one when it is asked for (`make model`), else the short one."""
    long = settings.get_current_profile_name() == "model-long"
    return settings.get_profile("model-long" if long else "model")


def test_any_interleaving_ends_in_f_of_the_table_and_harms_nobody(world: World) -> None:
    class Machine(Pipeline):
        pass

    Machine.world = world
    run_state_machine_as_test(Machine, settings=profile())
