"""Any interleaving of people, services, faults and time ends in index = f(table), and harms no transaction.

How it works and what it assumes: docs/decisions/0100. Which defects it notices: mutations.py.
"""

from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Pipeline
from tests.model.profiles import profile
from tests.model.world import World


def test_any_interleaving_ends_in_f_of_the_table_and_harms_nobody(world: World) -> None:
    class Machine(Pipeline):
        pass

    Machine.world = world
    run_state_machine_as_test(Machine, settings=profile())
