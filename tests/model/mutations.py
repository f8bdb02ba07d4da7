"""Deliberate defects of the services, one line each, that the model must notice."""

import inspect
import textwrap
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import emu.planning
import emu.processor
import emu.rows
import emu.worker
from emu.lease import Lease
from emu.worker import Emu
from pelican.shipper import Shipper


class Mutation(NamedTuple):
    """In the source of `name` of `owner` (a function, or a string), `old` becomes `new`; or `statement` is run on the
    store, and `undo` afterwards. `is_quick`: found within some dozens of runs."""

    title: str
    owner: Any = None
    name: str = ""
    old: str = ""
    new: str = ""
    statement: str = ""
    undo: str = ""
    is_quick: bool = False

    def apply(self, patch: pytest.MonkeyPatch) -> None:
        target = getattr(self.owner, self.name)
        if isinstance(target, str):
            patch.setattr(self.owner, self.name, self._mutated(target))
            return
        source = self._mutated(textwrap.dedent(inspect.getsource(target)))
        made: dict[str, Callable[..., Any]] = {}
        exec(compile(source, self.title, "exec"), inspect.unwrap(target).__globals__, made)  # noqa: S102 - our own source, one line changed
        patch.setattr(self.owner, self.name, made[self.name])
        if isinstance(self.owner, ModuleType):
            # Who imported the function by its name has it under that name too.
            for module in (emu.worker, emu.processor):
                if getattr(module, self.name, None) is target:
                    patch.setattr(module, self.name, made[self.name])

    def _mutated(self, text: str) -> str:
        assert text.count(self.old) == 1, f"{self.old!r} is not in {self.name} once"
        return text.replace(self.old, self.new)


MUTATIONS = (
    Mutation(
        "outbox rows are deleted before their messages are sent",
        Shipper,
        "ship",
        "self._send(claims)",
        "self._outbox.finish(claims); self._send(claims)",
    ),
    Mutation(
        "the oldest change of a unit is kept",
        emu.planning,
        "plan",
        "if before and before.change.version > change.version:",
        "if before:",
        is_quick=True,
    ),
    Mutation(
        "messages are acknowledged before they are worked on",
        Emu,
        "_work",
        "self._places.process(unit)",
        "self._queue.delete(messages); self._places.process(unit)",
    ),
    Mutation(
        "a write is sent whatever the lease says",
        Lease,
        "write",
        "if self._lost or self._deadline - now() < margin_seconds:",
        "if False:",
    ),
    Mutation(
        "what a shorter text leaves over stays",
        emu.rows,
        "surplus",
        "range(count, most)",
        "range(count, count)",
        is_quick=True,
    ),
    Mutation(
        "TRUNCATE is not seen",
        statement="ALTER TABLE products DISABLE TRIGGER aviary_truncate",
        undo="ALTER TABLE products ENABLE TRIGGER aviary_truncate",
    ),
    Mutation(
        "DELETE is not seen",
        statement="ALTER TABLE products DISABLE TRIGGER aviary_delete",
        undo="ALTER TABLE products ENABLE TRIGGER aviary_delete",
    ),
)
