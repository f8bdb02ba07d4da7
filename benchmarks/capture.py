"""Change capture alone: from the commit of one statement into the queue, and into the index with recorded vectors.

    .venv/bin/python -m benchmarks.capture
    .venv/bin/python -m benchmarks.capture --rows 2000 --rounds 3 --json build/capture.json

The statement gives every row a new text. `into_queue` counts until the outbox is empty, while nobody receives; `end_to_end`
until the index holds the last row, with an Emu that looks its vectors up (benchmarks.recorded). Both run on the laptop's real
processes: Postgres, the queue server, Pelicans, Emu, the stand-in. CPU is told by process, in microseconds a row.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.machine import describe, summary
from benchmarks.recorded import recorded
from benchmarks.rig import Rig, cpu_of
from local import catalogue
from local.gauges import Gauges, queue_client

POLL_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 5.0
DEADLINE_SECONDS = 300.0
BUSY = ("postgres", "sqs", "pinecone")


def fill(rig: Rig, rows: int) -> None:
    """The catalogue's first rows, and nothing of it in the outbox."""
    with rig.connect() as connection, connection.transaction():
        columns = "sku, name, description, category, price, attributes"
        with connection.cursor().copy(f"COPY products ({columns}) FROM STDIN") as copy:
            for p in catalogue.products(rows):
                copy.write_row((p.sku, p.name, p.description, p.category, p.price, json.dumps(p.attributes)))
        connection.execute("DELETE FROM sync.outbox")


def change_texts(connection: psycopg.Connection[Any], number: int) -> None:
    """Give every row a text that is new, yet no longer from round to round."""
    connection.execute(
        "UPDATE products SET description = regexp_replace(description, ' In stock: .*', '') || ' In stock: ' || %s",
        (number,),
    )


def change_all(rig: Rig, number: int) -> float:
    """Change all texts in one statement; time.monotonic() of the commit."""
    with rig.connect() as connection:
        change_texts(connection, number)
        return time.monotonic()


def until_shipped(rig: Rig) -> float:
    """Wait for an empty outbox; time.monotonic()."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    with rig.connect() as connection:
        while connection.execute("SELECT EXISTS (SELECT FROM sync.outbox)").fetchone() == (True,):
            if time.monotonic() > deadline:
                raise SystemExit(f"the outbox was not empty after {DEADLINE_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)
    return time.monotonic()


def written(rig: Rig) -> int:
    """Records that upserts have brought to the stand-in so far."""
    return rig.index_counts().get("upsert", {}).get("records", 0)


def until_written(rig: Rig, records: int) -> float:
    """Wait for so many; time.monotonic(). The stand-in's own counter is asked, because a look at the queue costs more
    than a message in it; and seldom as long as the end is far, because each look takes some milliseconds of the CPU
    that is measured."""
    began, first = time.monotonic(), written(rig)
    while (done := written(rig)) < records:
        waited = time.monotonic() - began
        if waited > DEADLINE_SECONDS:
            raise SystemExit(f"{done:,} of {records:,} records were written after {DEADLINE_SECONDS:.0f} s")
        left = waited * (records - done) / (done - first) if done > first else 0.0
        time.sleep(max(POLL_SECONDS, min(left / 5, LONGEST_PAUSE_SECONDS)))
    return time.monotonic()


def until_settled(gauges: Gauges) -> None:
    """Wait until nothing is under way any more."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not gauges.read().settled:
        if time.monotonic() > deadline:
            raise SystemExit(f"changes were under way after {DEADLINE_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)


def purge(rig: Rig) -> None:
    """Empty the queue; SQS itself allows a PurgeQueue a minute only."""
    client = queue_client(rig.state["sqs_endpoint"])
    url = rig.state["queue_url"]
    while messages := client.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        client.delete_message_batch(
            QueueUrl=url,
            Entries=[{"Id": m["MessageId"], "ReceiptHandle": m["ReceiptHandle"]} for m in messages],
        )
    client.close()


def each_row(cpu: Mapping[str, float], rows: int) -> dict[str, float]:
    """Microseconds of CPU a row, by process."""
    return {name: round(1e6 * seconds / rows, 1) for name, seconds in cpu.items()}


def report(rates: Sequence[float], cpu: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Rows a second, and the CPU of the median round."""
    middle = sorted(range(len(rates)), key=rates.__getitem__)[len(rates) // 2]
    return {"rates": list(rates), "rows_per_second": summary(rates), "cpu_us_a_row": dict(cpu[middle])}


def into_queue(rows: int, rounds: int) -> dict[str, Any]:
    """Two Pelicans, and nobody who receives."""
    rates, spent = [], []
    names = ("pelican-1", "pelican-2")
    with Rig(pelicans=2) as rig:
        fill(rig, rows)
        rig.start(*names)
        for number in range(rounds + 1):
            with cpu_of(rig, [*BUSY[:2], *names]) as cpu:
                began = change_all(rig, number)
                seconds = until_shipped(rig) - began
            purge(rig)
            # The first round finds cold connections and plans.
            if number:
                rates.append(rows / seconds)
                spent.append(each_row(cpu, rows))
                print(
                    f"into the queue, round {number} of {rounds}: {rates[-1]:,.0f} rows/s {spent[-1]}", file=sys.stderr
                )
    return report(rates, spent)


def end_to_end(rows: int, rounds: int, emus: int = 1) -> dict[str, Any]:
    """One Pelican and `emus` Emus with recorded vectors."""
    rates, spent = [], []
    names = ["pelican-1", *(f"emu-{number}" for number in range(1, emus + 1))]
    with Rig(emus=emus, vectors=recorded(rows)) as rig, Gauges(rig.state) as gauges:
        fill(rig, rows)
        rig.start(*names)
        for number in range(rounds + 1):
            with cpu_of(rig, [*BUSY, *names]) as cpu:
                before = written(rig)
                began = change_all(rig, number)
                seconds = until_written(rig, before + rows) - began
            until_settled(gauges)
            if number:
                rates.append(rows / seconds)
                spent.append(each_row(cpu, rows))
                print(f"end to end, round {number} of {rounds}: {rates[-1]:,.0f} rows/s {spent[-1]}", file=sys.stderr)
    return report(rates, spent)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.capture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000, help="rows that one statement changes (20000)")
    parser.add_argument("--rounds", type=int, default=5, help="how often (5)")
    parser.add_argument("--only", choices=["queue", "whole"], help="one of the two ways")
    parser.add_argument("--json", type=Path, help="write the report there")
    options = parser.parse_args()
    found: dict[str, Any] = {"machine": describe(), "rows": options.rows}
    if options.only != "whole":
        found["into_queue"] = into_queue(options.rows, options.rounds)
    if options.only != "queue":
        found["end_to_end"] = end_to_end(options.rows, options.rounds)
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
