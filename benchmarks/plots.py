"""Draw results.json: run by benchmarks.run in the environment that has matplotlib.

build/bench/bin/python benchmarks/plots.py build/bench-data/results.json docs/images
"""

import importlib
import json
import statistics
import sys
from pathlib import Path
from typing import Any

PRECISION_ORDER = ("ours bf16", "openvino bf16", "ours f32", "openvino f32", "onnxruntime f32", "onnxruntime int8",
                   "sentence-transformers")  # fmt: skip


def embedding(pyplot: Any, data: dict[str, Any]) -> Any:
    """Rows a second by length, a bar for each engine."""
    figure, axes = pyplot.subplots(1, len(data["rates"]), figsize=(10, 3.2))
    for place, (tokens, rates) in zip(axes, data["rates"].items(), strict=True):
        names = [name for name in PRECISION_ORDER if name in rates][::-1]
        middles = [statistics.median(rates[name]) for name in names]
        ends = [
            [middle - min(rates[name]) for name, middle in zip(names, middles, strict=True)],
            [max(rates[name]) - middle for name, middle in zip(names, middles, strict=True)],
        ]
        place.barh(
            names, middles, xerr=ends, color=["#2a6f97" if name.startswith("ours") else "#b0b8bf" for name in names]
        )
        place.set_title(f"{tokens} tokens")
        place.set_xlabel("rows/s")
        if place is not axes[0]:
            place.set_yticklabels([])
    return figure


def waits(pyplot: Any, data: dict[str, Any], labels: dict[str, str]) -> Any:
    """How many of the answers had come by when."""
    figure, place = pyplot.subplots(figsize=(6, 3.2))
    for name, label in labels.items():
        values = sorted(data[name])
        place.plot(values, [100 * (number + 1) / len(values) for number in range(len(values))], label=label)
    place.set_xlabel("ms")
    place.set_ylabel("%")
    place.set_ylim(0, 101)
    place.set_xscale("log")
    place.legend(frameon=False)
    return figure


def scaling(pyplot: Any, data: dict[str, Any]) -> Any:
    """Age of the oldest change, and tasks, minute by minute."""
    runs = [run for run in data["runs"] if run["minutes"]]
    figure, axes = pyplot.subplots(2, len(runs), figsize=(11, 4.6), sharex="col")
    for column, run in enumerate(runs):
        minutes = [sample["minute"] / 60 for sample in run["minutes"]]
        axes[0][column].plot(minutes, [sample["age_seconds"] / 60 for sample in run["minutes"]], color="#9b2226")
        axes[0][column].set_title(run["load"])
        axes[1][column].step(minutes, [sample["emus"] for sample in run["minutes"]], label="Emus", color="#2a6f97")
        axes[1][column].step(
            minutes, [sample["pelicans"] for sample in run["minutes"]], label="Pelicans", color="#bc6c25"
        )
        axes[1][column].set_xlabel("hours")
    axes[0][0].set_ylabel("oldest change, minutes")
    axes[1][0].set_ylabel("tasks")
    axes[1][0].legend(frameon=False)
    return figure


def growth(pyplot: Any, data: dict[str, Any]) -> Any:
    """What a claim and our share of a search take by the size of the table."""
    figure, place = pyplot.subplots(figsize=(6, 3.2))
    for name, label in (("claim_ms", "claim of 500 keys"), ("own_search_ms", "search, our own share")):
        rounds = list(data[name].values())
        middles = [statistics.median(values) for values in rounds]
        ends = [
            [middle - min(values) for middle, values in zip(middles, rounds, strict=True)],
            [max(values) - middle for middle, values in zip(middles, rounds, strict=True)],
        ]
        place.errorbar([int(size) for size in data[name]], middles, yerr=ends, marker="o", capsize=3, label=label)
    place.set_xscale("log")
    place.set_ylim(bottom=0)
    place.set_xlabel("rows of the table (and keys in the outbox)")
    place.set_ylabel("ms")
    place.legend(frameon=False)
    return figure


def main() -> None:
    """One SVG for each section that was measured, as far as it came."""
    results, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("svg")
    # The same numbers make the same file.
    matplotlib.rcParams.update(
        {"svg.hashsalt": "aviary", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    drawn, left_out = [], []
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in (
        ("embedding", embedding),
        ("freshness", lambda p, d: waits(p, d, {"idle": "idle", "loaded": "at half of the greatest rate"})),
        ("search", lambda p, d: waits(p, d, {"new": "new queries", "kept": "known queries"})),
        ("scaling", scaling),
        ("growth", growth),
    ):
        data = results.get(name, {}).get("data")
        try:
            figure = draw(pyplot, data)
        except (KeyError, TypeError, ValueError) as error:
            left_out.append(f"{name} ({type(error).__name__}: {error})")
            continue
        figure.tight_layout()
        path = folder / f"bench-{name}.svg"
        figure.savefig(path, metadata={"Date": None}, transparent=False)
        drawn.append(path.name)
    print("drew " + ", ".join(drawn) + (f"; without the numbers of {', '.join(left_out)}" if left_out else ""))


if __name__ == "__main__":
    main()
