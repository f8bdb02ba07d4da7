"""Has something on a hot path, or the Pulumi program, become twice as expensive? Ratios that a noisy machine leaves alone;
ten seconds.

    .venv/bin/python -m benchmarks.regression            # 1 when a bound is broken
    .venv/bin/python -m benchmarks.regression --help

Of each hot path, and of the whole Pulumi program, the function calls are counted: nearly the same in every run on every
machine, so half as many again break the bound. What is done inside one call shows in CPU time only, divided by that of
a calibration loop of plain Python, run beside it in turns; the least of several rounds counts, because other work can only
add. These bounds are about three times of what was measured, because where others use the caches a ratio was half as high again,
and the Pulumi program's, which is not timed, more than twice. Requests a row are counted. A bound that is broken on purpose is raised here,
with the reason in the commit.
"""

import argparse
import contextlib
import hashlib
import itertools
import runpy
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NamedTuple

import numpy as np

from aviary.chunking import Chunking, Tokens
from aviary.index import Record, to_sdk, upsert_requests
from aviary.messages import Batch, Change, encode
from aviary.source import DIMENSION, Source, render
from benchmarks.machine import REPOSITORY
from blueprint import record
from emu.planning import plan
from emu.queue import Received
from emu.rows import records_of, rows_of
from frontend.alike import group
from local import catalogue
from pelican.packing import Captured, pack, to_messages

ROWS = 1_000
ROUNDS = 7
CHUNKING = Chunking()
SOURCE = Source(
    id=1, name="products", schema="public", table="products", key_columns=("id",), namespace="products",
    text_template="{description} {name}", metadata_columns=("category", "price"),
)  # fmt: skip


class Check(NamedTuple):
    """`most_calls`: of functions, in thousands. `most_cpu`: CPU time over the calibration loop's."""

    name: str
    work: Callable[[], object]
    most_calls: float
    most_cpu: float


def calibration() -> None:
    """A fixed amount of what the hot paths do: dictionaries, strings, hashes, calls."""
    for number in range(ROWS):
        text = f"{number} " * 8
        found = {word: hashlib.blake2b(word.encode(), digest_size=8).digest() for word in text.split()}
        sorted(found.items())


def program() -> None:
    """The whole Pulumi program under mocks, with prod's stack file."""
    config, secrets = record.stack_config("prod")
    with contextlib.chdir(REPOSITORY):
        record.run(
            lambda: runpy.run_path(str(REPOSITORY / "__main__.py"), run_name="__main__"),
            config=config,
            secrets=secrets,
            project_name=record.project(),
            stack="prod",
        )


def cpu(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def calls(work: Callable[[], object]) -> int:
    """Calls of functions, in Python and C, that it makes in this thread and in those that it starts."""
    made = itertools.count()

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        if event in ("call", "c_call"):
            next(made)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return next(made)


def measured(timed: Sequence[Check]) -> list[tuple[str, float, float, str]]:
    """Of each check its name, its ratio, the bound and what it took."""
    least = [float("inf")] * len(timed)
    unit = float("inf")
    for _ in range(ROUNDS):
        unit = min(unit, cpu(calibration))
        least = [min(so_far, cpu(check.work)) for so_far, check in zip(least, timed, strict=True)]
    return [
        (check.name, seconds / unit, check.most_cpu, f"{seconds * 1000:.3g} ms of CPU")
        for seconds, check in zip(least, timed, strict=True)
    ]


def checks() -> tuple[list[Check], dict[str, tuple[float, float]]]:
    """What is timed; and what is counted, each with its bound."""
    rows = [
        (str(number), {"name": p.name, "description": p.description, "category": p.category, "price": p.price})
        for number, p in enumerate(catalogue.products(ROWS))
    ]
    template = Batch(
        source="products", namespace="products", model=SOURCE.model, shard=1, captured_at_ms=1, expires_at_ms=10**13,
        chunking=CHUNKING, changes=(),
    )  # fmt: skip

    def changes() -> list[Captured]:
        found = []
        for key, values in rows:
            document = render(SOURCE, key, values, CHUNKING)
            assert document is not None
            found.append(Captured(
                Change(key=key, version=1, op="upsert", text=document.text, text_hash=document.text_hash,
                       metadata=document.metadata), 1))  # fmt: skip
        return found

    captured = changes()
    batches = pack(captured, template).batches
    messages = to_messages(batches, "1-1", 1)
    received = [
        Received(id=str(n), receipt="", body=m.body, group="1-1", times=1, sent_at_ms=1) for n, m in enumerate(messages)
    ]
    draw = np.random.default_rng(1).normal(size=(ROWS, DIMENSION)).astype(np.float32)
    vectors = draw / np.linalg.norm(draw, axis=1, keepdims=True)
    tasks = plan(received, lambda _: None).tasks

    class NoTokens:
        def tokens(self, texts: Sequence[str]) -> list[Tokens]:
            raise AssertionError(f"no text of the catalogue is long, and {len(texts)} were cut")

    def records() -> list[Record]:
        found = rows_of(tasks, {}, NoTokens())
        return [record for row, vector in zip(found, vectors, strict=True) for record in records_of(row, [vector])]

    made = records()
    requests = list(upsert_requests(made))
    texts = {key: f"{values['description']} {values['name']}" for key, values in rows[:60]}
    timed = [
        Check("Pelican: rows to changes", changes, 56, 7.2),
        Check("Pelican: changes to messages", lambda: to_messages(pack(captured, template).batches, "1-1", 1), 14, 2.9),
        Check("Pelican: one message", lambda: [encode(batch) for batch in batches], 0.1, 0.9),
        Check("Emu: messages to tasks", lambda: plan(received, lambda _: None), 13.7, 2.7),
        Check("Emu: tasks to records", records, 19.6, 2.3),
        Check("Emu: records to requests", lambda: [[to_sdk(r) for r in q] for q in upsert_requests(made)], 24.1, 16),
        Check("frontend: near-duplicates of 60 rows", lambda: group(list(texts), texts), 10.9, 0.44),
    ]
    counted = {
        "SQS messages a row": (len(messages) / ROWS, 0.015),
        "Pinecone upserts a row": (len(requests) / ROWS, 0.005),
        "bytes a row in messages": (sum(message.size for message in messages) / ROWS, 900.0),
    }
    return timed, counted


def main() -> int:
    """Print every figure with its bound."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.regression",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    timed, counted = checks()
    figures = measured(timed)
    figures += [(check.name, calls(check.work) / 1000, check.most_calls, "thousand calls") for check in timed]
    figures += [(name, value, bound, "") for name, (value, bound) in counted.items()]
    # Last and by itself: what Pulumi's SDK leaves in memory makes everything after it slower to collect.
    program()  # imports the SDKs
    figures.append(("Pulumi: the program under mocks, prod", calls(program) / 1000, 2700, "thousand calls"))
    broken = 0
    for name, value, bound, took in figures:
        is_broken = value > bound
        broken += is_broken
        line = f"{name:44}{value:10.4g}   at most {bound:<8g}{took:>18}"
        print(f"{line}{'   BROKEN' if is_broken else ''}".rstrip())
    if broken:
        print(
            f"{broken} of {len(figures)} figures are above their bounds: has a hot path become slower?", file=sys.stderr
        )
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
