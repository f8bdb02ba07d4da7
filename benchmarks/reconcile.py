"""Reconcile on a table with injected drift: is all of it found and repaired, how long does it take, in how much memory?

    .venv/bin/python -m benchmarks.reconcile
    .venv/bin/python -m benchmarks.reconcile --rows 50000 --each 500 --json build/reconcile.json

Real processes: Postgres, the queue server, the index stand-in, Pelican and Emu. The rows' vectors are written straight
to the stand-in, with the text hash and the metadata that f(row) has and numbers drawn at random, which spares embedding
them all. Then, behind everybody's back, `--each` vectors are deleted (missing), as many get another text's hash
(stale), and as many rows are deleted without a trigger (orphaned). `python -m pelican reconcile` runs twice: it reports, then it repairs.
Measured are the seconds and the greatest resident memory of that process, and what a third run still finds.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from aviary.index import PineconeIndex, Record
from aviary.source import DIMENSION, index_metadata, render, text_hash, vector_id
from benchmarks.machine import describe
from local import catalogue
from local.ports import free_port
from pelican.watch import source_named

KIB_PER_MIB = 1024
SAMPLE_SECONDS = 0.05
BAR_SECONDS, BAR_MIB = 60.0, 200.0
BATCH = 400


@contextlib.contextmanager
def stack(folder: Path) -> Iterator[dict[str, Any]]:
    """The laptop stack without rows; its state.json."""
    command = [sys.executable, "-m", "local", "up", "--detach", "--data-dir", str(folder), "--rows", "0"]
    subprocess.run([*command, "--port", str(free_port())], check=True, capture_output=True)
    try:
        yield json.loads((folder / "state.json").read_text())
    finally:
        down = [sys.executable, "-m", "local", "down", "--data-dir", str(folder)]
        subprocess.run(down, check=False, capture_output=True)


def fill(state: dict[str, Any], rows: int) -> None:
    """Rows of the catalogue, repeated as often as it takes, and a vector for each, unseen by Pelican."""
    products = list(catalogue.products(min(rows, 5_000)))
    rng = np.random.default_rng(1)
    with (
        psycopg.connect(state["postgres_dsn"], autocommit=True) as connection,
        PineconeIndex(state["pinecone_api_key"], state["index_host"]) as index,
    ):
        connection.execute("SET session_replication_role = replica")
        source = source_named(connection, "products")
        with connection.cursor().copy("COPY products (id, sku, name, description, category, price) FROM STDIN") as copy:
            for number in range(rows):
                product = products[number % len(products)]
                sku = f"{product.sku}-{number}"
                copy.write_row((number + 1, sku, product.name, product.description, product.category, product.price))
        connection.execute("SELECT setval(pg_get_serial_sequence('products', 'id'), %s)", (rows,))
        connection.execute("ANALYZE products")
        version = connection.execute("SELECT nextval('sync.version')").fetchone()
        cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
        found = cursor.execute("SELECT id, sku, name, description, category, price FROM products ORDER BY id")
        while some := found.fetchmany(BATCH):
            numbers = rng.standard_normal((len(some), DIMENSION)).astype(np.float32)
            records = []
            for row, values in zip(some, numbers, strict=True):
                document = render(source, str(row["id"]), row)
                if document is not None and version is not None:
                    records.append(Record(vector_id(document.key), values, index_metadata(document, version[0])))
            index.upsert("products", records)


def drift(state: dict[str, Any], rows: int, each: int) -> None:
    """Break what Pelican and Emu have made."""
    chosen = random.Random(2).sample(range(1, rows + 1), 3 * each)
    missing, stale, orphaned = chosen[:each], chosen[each : 2 * each], chosen[2 * each :]
    with (
        psycopg.connect(state["postgres_dsn"], autocommit=True) as connection,
        PineconeIndex(state["pinecone_api_key"], state["index_host"]) as index,
    ):
        connection.execute("SET session_replication_role = replica")
        connection.execute("DELETE FROM products WHERE id = ANY (%s)", (orphaned,))
        index.delete("products", [str(key) for key in missing])
        records = index.fetch("products", [str(key) for key in stale]).values()
        other = text_hash("another text")
        index.upsert(
            "products", [record._replace(metadata=record.metadata | {"_text_hash": other}) for record in records]
        )


def peak_resident_kib(pid: int) -> int:
    """The most that was resident at once so far, as the kernel keeps it (Linux); 0 when the process is gone. What wait4
    tells would count this process too, of which the other was forked."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def reconcile(state: dict[str, Any], *options: str) -> dict[str, Any]:
    """One run of the command: its report, seconds and peak of resident memory."""
    environment = {
        **os.environ,
        "AVIARY_POSTGRES_DSN": state["postgres_dsn"],
        "AVIARY_QUEUE_URL": state["queue_url"],
        "AVIARY_INDEX_HOST": state["index_host"],
        "PINECONE_API_KEY": state["pinecone_api_key"],
        "AWS_ENDPOINT_URL_SQS": state["sqs_endpoint"],
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
    }
    command = [sys.executable, "-m", "pelican", "reconcile", "--json", *options]
    began = time.monotonic()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.DEVNULL)
        peak = 0
        while process.poll() is None:
            peak = peak_resident_kib(process.pid) or peak
            time.sleep(SAMPLE_SECONDS)
        seconds = time.monotonic() - began
        out.seek(0)
        text = out.read()
    report = json.loads(text) if text else {}
    (source,) = report.get("sources") or [{}]
    for known in ("examples", "source"):
        source.pop(known, None)
    return {
        "status": process.returncode,
        # Its own count, which starts when it is ready.
        "walked_seconds": source.pop("seconds", None),
        "seconds": round(seconds, 1),
        "peak_resident_mib": round(peak / KIB_PER_MIB, 1),
        **source,
    }


def main() -> int:
    """Measure, print, write the JSON; 1 when something was not found, not repaired, or over the bar."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reconcile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=50_000, help="rows of the table (50000)")
    parser.add_argument("--each", type=int, default=500, help="differences of each kind (500)")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": describe(), "rows": options.rows, "each": options.each}
    with tempfile.TemporaryDirectory(prefix="aviary-bench-") as root, stack(Path(root) / "data") as state:
        print("filling table and index", file=sys.stderr)
        fill(state, options.rows)
        drift(state, options.rows, options.each)
        result["load_before_runs"] = round(os.getloadavg()[0], 2)
        for name, arguments in (("report", ()), ("repair", ("--repair",)), ("after", ())):
            print(name, file=sys.stderr)
            result[name] = reconcile(state, *arguments)
    every = {"missing": options.each, "stale": options.each, "orphaned": options.each}
    result["found_all"] = all(every.items() <= result[run].items() for run in ("report", "repair"))
    result["repaired_all"] = result["repair"].get("left") == 0 and result["after"]["status"] == 0
    runs = [result[name] for name in ("report", "repair", "after")]
    result["within_bar"] = {
        f"a run without repair ≤ {BAR_SECONDS:.0f} s": result["report"]["seconds"] <= BAR_SECONDS,
        f"≤ {BAR_MIB:.0f} MiB resident": max(run["peak_resident_mib"] for run in runs) <= BAR_MIB,
    }
    text = json.dumps(result, indent=2, ensure_ascii=False)
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")
    return 0 if result["found_all"] and result["repaired_all"] and all(result["within_bar"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
