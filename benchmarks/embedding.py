"""Measure the embedder: rows a second by length and precision, time of one query, load time, resident memory.

    python benchmarks/embedding.py [--seconds 3] [--threads 2]
    python benchmarks/embedding.py --queries        # one short query, with a graph of its own and without

The precisions take turns, so that a machine busy with other work slows them alike; on such a machine the rate by
CPU time is the steadier figure.
"""

import argparse
import random
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from aviary.embedder import Embedder, has_bf16
from aviary.embedder_graph import ov

WORDS = re.findall(
    r"\w+",
    """steel flask keeps soup hot for hours wide mouth lid cup running shoe deep lugs mud light road soft foam wool warm
    damp rain coat seam stripe child size lamp desk clamp dim bright night garden sun pump tyre valve bar drill torque
    battery case knife blade carbon rust bread stew oven enamel paper sheet recycled pen nib ink medium bottle mat yoga
    rubber grip wet brush timer pressure sensor gentle quiet key board office gift baker hand made red blue green""",
)
Precision = Literal["bf16", "f32"]
# Rows at once as Emu sees them: one message.
ROWS = 100
# More than any cache holds, and most of the time between two of fifty queries a second.
OTHER_BYTES, PAUSE_SECONDS = 128 << 20, 0.01


def text(tokens: float, spread: float) -> str:
    return " ".join(random.choices(WORDS, k=max(1, round(random.gauss(tokens - 2, spread)))))


class Rate(NamedTuple):
    """Rows a second: by the clock, and by the CPU time taken, as if all threads had a core to themselves."""

    clock: float
    cpu: float


def rate(model: Embedder, texts: list[str], threads: int) -> Rate:
    start, used = time.perf_counter(), time.process_time()
    model.embed(texts)
    return Rate(len(texts) / (time.perf_counter() - start), threads * len(texts) / (time.process_time() - used))


def resident_mb(field: str) -> float:
    """VmRSS or VmHWM (its peak) of this process, in MB; Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def alone(precision: Precision, threads: int) -> None:
    """What one process pays that has only this embedder: run in a process of its own."""
    start = time.perf_counter()
    model = Embedder(precision, threads)
    model.embed(["first"])
    load, resting = time.perf_counter() - start, resident_mb("VmRSS")
    waits = []
    for number in range(200):
        begin = time.perf_counter()
        model.embed([text(10, 3)])
        if number >= 20:
            waits.append((time.perf_counter() - begin) * 1e3)
    for tokens in (5, 21, 80, 160, 250):
        for rows in (1, 7, 30, 100, 300):
            model.embed([text(tokens, tokens / 4) for _ in range(rows)])
    print(
        f"{precision}: load {load:.2f} s; one query p50 {statistics.median(waits):.1f} ms, "
        f"p95 {statistics.quantiles(waits, n=20)[-1]:.1f} ms; "
        f"resident {resting:.0f} MB after loading, {resident_mb('VmRSS'):.0f} MB after every shape, peak {resident_mb('VmHWM'):.0f} MB"
    )


def of_queries(threads: int, count: int = 300) -> None:
    """Milliseconds of one short query by both graphs, in turns: at once one after another, and with the caches full of other
    things and a pause before each, as in a service that does more than embed."""
    models = {
        "one graph": Embedder(threads=threads),
        "and one for short texts": Embedder(threads=threads, queries=True),
    }
    queries = [text(10, 1) for _ in range(count)]
    other = np.zeros(OTHER_BYTES, np.uint8)
    for caches in ("warm", "cold"):
        waits: dict[str, list[float]] = {name: [] for name in models}
        for query in queries:
            for name in random.sample(list(models), len(models)):
                if caches == "cold":
                    other += 1
                    time.sleep(PAUSE_SECONDS)
                begin = time.perf_counter()
                models[name].embed([query])
                waits[name].append((time.perf_counter() - begin) * 1e3)
        for name, found in waits.items():
            low, middle, high = statistics.quantiles(found, n=4)
            print(f"one query, {caches} caches, {name}: {middle:.2f} ms (quartiles {low:.2f} and {high:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each length and precision")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--queries", action="store_true", help="measure single short queries only")
    parser.add_argument("--alone", choices=["bf16", "f32"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        alone(given.alone, given.threads)
        return
    if given.queries:
        of_queries(given.threads)
        return
    precisions: list[Precision] = ["bf16", "f32"] if has_bf16(ov.Core()) else ["f32"]
    for precision in precisions:
        command = [sys.executable, __file__, "--alone", precision, "--threads", str(given.threads)]
        subprocess.run(command, check=True)
    models = {precision: Embedder(precision, given.threads) for precision in precisions}
    for tokens, spread in ((21, 5), (80, 20), (250, 15)):
        texts = [text(tokens, spread) for _ in range(ROWS)]
        rates: dict[str, list[Rate]] = {precision: [] for precision in precisions}
        end = time.perf_counter() + given.seconds * len(precisions)
        for model in models.values():
            model.embed(texts)
        while time.perf_counter() < end or not all(rates.values()):
            for precision, model in models.items():
                rates[precision].append(rate(model, texts, given.threads))
        for name, found in rates.items():
            clock, cpu = (statistics.median(measured) for measured in zip(*found, strict=True))
            print(f"{tokens} tokens, {name}: {clock:.0f} rows/s by the clock, {cpu:.0f} by CPU time", flush=True)


if __name__ == "__main__":
    main()
