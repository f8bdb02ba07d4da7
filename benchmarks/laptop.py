"""What the laptop stack does, measured on the real processes of `python -m local`.

    .venv/bin/python -m benchmarks.laptop                 # everything, once
    .venv/bin/python -m benchmarks.laptop --runs 3 --json build/laptop.json

Measured in each run, on a new data folder: the time from `up` until every row of the catalogue is searchable; rows a
second end to end on the running stack, from the commit of one statement that changes the text of every row until every
change is processed; commit → searchable of single-row updates, one at a time, on an idle system and then while a backfill
embeds every row anew, each seen by asking the index until it answers with the new state; search over HTTP; the resident
memory of each service afterwards.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import psycopg

from aviary.index import PineconeIndex
from aviary.source import text_hash, vector_id
from benchmarks.machine import describe, summary
from local import catalogue
from local.gauges import Gauges
from local.ports import free_port

UPDATE_DEADLINE_SECONDS = 30.0
# Until a change is searchable it is asked for after this, or this share of what it has waited so far where that is more: each
# look takes some milliseconds of the CPU that what is measured needs.
POLL_SECONDS, POLL_SHARE = 0.001, 0.05
SETTLE_POLL_SECONDS = 0.1
SEARCHES_A_SECOND = 25
MIB = 1024 * 1024


def up(folder: Path, rows: int, port: int) -> tuple[float, str]:
    """Start the stack; seconds until it returned with every row searchable, and what it printed."""
    started = time.monotonic()
    command = [sys.executable, "-m", "local", "up", "--detach", "--data-dir", str(folder)]
    done = subprocess.run(
        [*command, "--rows", str(rows), "--port", str(port)], check=True, capture_output=True, text=True
    )
    return time.monotonic() - started, done.stdout


def keep_filling(connection: psycopg.Connection[Any], index: PineconeIndex) -> None:
    """Have a backfill under way in which every row must be embedded: an index that lost its vectors."""
    waiting = connection.execute(
        "SELECT backfill_keys > 0 OR backfill_finished_at IS NULL FROM sync.status"
        " WHERE name = 'products' AND backfill_total IS NOT NULL"
    ).fetchone()
    if waiting is None or not waiting[0]:
        index.delete("products", list(index.ids("products")))
        connection.execute("SELECT sync.request_backfill(id) FROM sync.source WHERE name = 'products'")


def commit_to_searchable(
    dsn: str, index: PineconeIndex, updates: int, *, filling: bool = False, mark: str = "", seconds: float = math.inf
) -> list[float]:
    """Milliseconds from each commit until a query of the index shows the row's new text; `filling`: while a backfill
    runs, else on an idle system. Who asks again gives another `mark`, or no text is new. None is begun after so
    many `seconds`."""
    found: list[float] = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        ids = [row[0] for row in connection.execute("SELECT id FROM products ORDER BY id LIMIT %s", (updates,))]
        began = time.monotonic()
        for number, key in enumerate(ids):
            if time.monotonic() - began > seconds:
                break
            if filling:
                keep_filling(connection, index)
            name, description = (
                f"Measured {'pot' if filling else 'kettle'} {number}",
                f"Boils {number} litres of water for the benchmark{mark}",
            )
            expected = text_hash(f"{description} {name}")
            connection.execute(
                "UPDATE products SET name = %s, description = %s WHERE id = %s", (name, description, key)
            )
            committed = time.monotonic()
            while True:
                match = index.find("products", vector_id(str(key)))
                if match is not None and match.metadata.get("_text_hash") == expected:
                    break
                waited = time.monotonic() - committed
                if waited > UPDATE_DEADLINE_SECONDS:
                    raise SystemExit(f"update {number} was not searchable after {UPDATE_DEADLINE_SECONDS:.0f} s")
                time.sleep(max(POLL_SECONDS, POLL_SHARE * waited))
            found.append((time.monotonic() - committed) * 1000)
            # Idle is part of the question: the next change finds nothing under way.
            time.sleep(0.05)
    return found


def throughput(state: dict[str, Any], rows: int) -> float:
    """Rows a second: one UPDATE gives every row a new text, and the clock stops when nothing of it is under way."""
    with psycopg.connect(state["postgres_dsn"], autocommit=True) as connection, Gauges(state) as gauges:
        connection.execute("UPDATE products SET description = description || ' Now in stock.'")
        committed = time.monotonic()
        while not gauges.read().settled:
            time.sleep(SETTLE_POLL_SECONDS)
        return rows / (time.monotonic() - committed)


def searches(url: str, queries: list[str]) -> tuple[list[float], list[float]]:
    """Milliseconds of each search: as the server says, and as the client sees it. Every query is asked once."""
    server: list[float] = []
    client: list[float] = []
    for text in queries:
        began = time.monotonic()
        with urllib.request.urlopen(f"{url}/api/search?q={urllib.parse.quote(text)}&limit=10", timeout=10) as answer:
            body = json.load(answer)
        client.append((time.monotonic() - began) * 1000)
        server.append(body["timing"]["total_ms"])
        time.sleep(1 / SEARCHES_A_SECOND)
    return server, client


def memory(state: dict[str, Any]) -> dict[str, int]:
    """Resident MiB of each process, its children included."""
    found = {}
    for process in state["processes"]:
        whole = psutil.Process(process["pid"])
        found[process["name"]] = sum(p.memory_info().rss for p in [whole, *whole.children(recursive=True)]) // MIB
    return found


def measure(rows: int, updates: int) -> dict[str, Any]:
    """One run on a new data folder."""
    with tempfile.TemporaryDirectory(prefix="aviary-bench-") as root:
        folder = Path(root) / "data"
        try:
            seconds, printed = up(folder, rows, free_port())
            state = json.loads((folder / "state.json").read_text())
            with PineconeIndex(state["pinecone_api_key"], state["index_host"]) as index:
                if index.count("products") != rows:
                    raise SystemExit(f"{index.count('products')} vectors for {rows} rows")
                latency = commit_to_searchable(state["postgres_dsn"], index, updates)
            rate = throughput(state, rows)
            with PineconeIndex(state["pinecone_api_key"], state["index_host"]) as index:
                behind = commit_to_searchable(state["postgres_dsn"], index, updates, filling=True)
                with Gauges(state) as gauges:
                    while not gauges.read().settled:
                        time.sleep(SETTLE_POLL_SECONDS)
            server, client = searches(state["frontend_url"], [query.text for query in catalogue.queries()])
            used = memory(state)
        finally:
            down = [sys.executable, "-m", "local", "down", "--data-dir", str(folder)]
            subprocess.run(down, check=False, capture_output=True)
    return {
        "up_seconds": round(seconds, 2),
        "said": [line for line in printed.splitlines() if "rows/s" in line],
        "rows_per_second": round(rate, 1),
        "commit_to_searchable_ms": summary(latency),
        "commit_to_searchable_during_backfill_ms": summary(behind),
        "search_server_ms": summary(server),
        "search_client_ms": summary(client),
        "resident_mib": used,
    }


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.laptop", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=5000, help="products in the catalogue (5000)")
    parser.add_argument("--updates", type=int, default=200, help="single-row updates to time (200)")
    parser.add_argument("--runs", type=int, default=1, help="how often to measure everything (1)")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": describe(), "rows": options.rows, "runs": []}
    for number in range(options.runs):
        print(f"run {number + 1} of {options.runs}", file=sys.stderr)
        report["runs"].append(measure(options.rows, options.updates))
    report["median_rows_per_second"] = statistics.median(run["rows_per_second"] for run in report["runs"])
    report["median_up_seconds"] = statistics.median(run["up_seconds"] for run in report["runs"])
    text = json.dumps(report, indent=2)
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
