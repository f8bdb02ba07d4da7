"""A whole table from Postgres to the index with the real model, beside the bare model; and what AWS and Pinecone would bill."""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from aviary.embedder import Embedder
from benchmarks import capture
from benchmarks.recorded import texts
from benchmarks.rig import Rig, cpu_of
from benchmarks.sections import ROUNDS, Row, Section, ratios

ROWS, QUICK_ROWS = 20_000, 1_000
QUICK_ROUNDS = 2
WHOLE_BAR, LEAST_ROWS_A_SECOND = 0.85, 1_000
PROCESSES = ("postgres", "sqs", "pinecone", "pelican-1", "emu-1")
# What SQS bills as requests, of all that the stack asks it.
ASKING = (
    "SendMessageBatch",
    "ReceiveMessage",
    "DeleteMessageBatch",
    "ChangeMessageVisibilityBatch",
    "GetQueueAttributes",
)


def measure(quick: bool) -> Iterator[Section]:
    """In turns: every text by the embedder alone, then every row by the stack."""
    rows, rounds = (QUICK_ROWS, QUICK_ROUNDS) if quick else (ROWS, ROUNDS)
    embedder, plain = Embedder(), texts(rows)
    bare: list[float] = []
    whole: list[float] = []
    data: dict[str, Any] = {"rows": rows, "precision": embedder.precision, "bills": [], "cpu_us_a_row": {}}
    with Rig(settings={"AVIARY_RECEIVE_WAIT_SECONDS": "1"}) as rig:
        capture.fill(rig, rows)
        rig.start("pelican-1", "emu-1")
        for number in range(rounds):
            # Texts that no vector was made of yet; alone first, while the stack has nothing to do.
            marked = [f"{text} In stock: {number}" for text in plain]
            bare.append(rate(embedder, marked))
            seconds, bill, cpu = one(rig, rows, number)
            whole.append(rows / seconds)
            data["bills"].append(bill)
            data["cpu_us_a_row"] = capture.each_row(cpu, rows)
            data["resident_mib"] = {name: round(rig.resident_mib(name)) for name in PROCESSES}
            print(
                f"backfill, round {number + 1} of {rounds}: {whole[-1]:,.0f} rows/s, bare {bare[-1]:,.0f}",
                file=sys.stderr,
            )
            yield Section(_rows(bare, whole, data["bills"]), data)


def _rows(bare: Sequence[float], whole: Sequence[float], bills: Sequence[dict[str, float]]) -> list[Row]:
    enough = max(bare) * WHOLE_BAR >= LEAST_ROWS_A_SECOND
    return [
        Row("bare embedding rate, the same texts", list(bare), "rows/s"),
        Row("backfill end to end", list(whole), "rows/s", LEAST_ROWS_A_SECOND if enough else None),
        Row("backfill / bare rate", ratios(whole, bare), "times", WHOLE_BAR),
        Row("SQS requests a row, backfill", [bill["sqs_requests"] for bill in bills], "", at_most=0.02),
        Row("Pinecone requests a row, backfill", [bill["pinecone_requests"] for bill in bills], "", at_most=0.01),
        Row("bytes a row to SQS, backfill", [bill["sqs_bytes"] for bill in bills], "bytes"),
    ]


def rate(embedder: Embedder, wanted: list[str], block: int = 800) -> float:
    """Rows a second, in blocks as Emu takes them."""
    began = time.monotonic()
    for start in range(0, len(wanted), block):
        embedder.embed(wanted[start : start + block])
    return len(wanted) / (time.monotonic() - began)


def one(rig: Rig, rows: int, number: int) -> tuple[float, dict[str, float], dict[str, float]]:
    """A backfill of new texts: seconds, what is billed for each row, CPU seconds by process."""
    with rig.connect() as connection, connection.transaction():
        capture.change_texts(connection, number)
        connection.execute("DELETE FROM sync.outbox")
    calls, requests, before = len(rig.calls()), asked(rig), capture.written(rig)
    with cpu_of(rig, PROCESSES) as cpu:
        with rig.connect() as connection:
            connection.execute("SELECT sync.request_backfill(id) FROM sync.source")
        began = time.monotonic()
        seconds = capture.until_written(rig, before + rows) - began
    made = rig.calls()[calls:]
    counts = Counter(call["target"] for call in made)
    sent = sum(call["bytes"] for call in made if call["target"] == "SendMessageBatch")
    bill = {
        "sqs_requests": sum(counts[name] for name in ASKING) / rows,
        "sqs_bytes": sent / rows,
        # SQS counts every 64 KB of a request's payload as one.
        "sqs_requests_billed": (sum(counts[name] for name in ASKING) + sent / 65_536) / rows,
        "pinecone_requests": (asked(rig) - requests) / rows,
    }
    return seconds, bill, cpu


def asked(rig: Rig) -> int:
    """Requests to the data plane so far."""
    return sum(
        counts["requests"] for name, counts in rig.index_counts().items() if name in ("upsert", "fetch", "delete")
    )
