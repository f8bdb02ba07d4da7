"""Every measurement in one run on one machine: a table with the bars, JSON, and the plots of docs/performance.md.

    .venv/bin/python -m benchmarks.run                                  # all of it, most of an hour on two quiet cores
    .venv/bin/python -m benchmarks.run --quick                          # small sizes, to see that everything works
    .venv/bin/python -m benchmarks.run --only capture,search --quick    # some sections
    .venv/bin/python -m benchmarks.run --resume                         # go on where an interrupted run stopped
    .venv/bin/python -m benchmarks.run --table                          # print the table of what is there
    .venv/bin/python -m benchmarks.run --table --publish                # and put it into docs/, the plots too

Each section's numbers are kept in build/bench-data/sections as soon as it ends, so Ctrl-C loses one section only. A section
that fails says so in the table beside what it has measured, and the others go on. What has a bar is compared by its median; the spread is the smallest
and the largest of the rounds. Peers and limits are measured in turns with what they are compared with. The exit status
says whether everything was measured, not whether every bar was met: on a busy machine none of these numbers means much.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import BUILD, REPOSITORY, describe
from benchmarks.peer_process import PYTHON
from benchmarks.scaling_speeds import share_of_bare
from benchmarks.sections import Row, capacity

SECTIONS = (
    "embedding",
    "backfill",
    "capture",
    "freshness",
    "triggers",
    "search",
    "growth",
    "backlog",
    "program",
    "capacity",
    "scaling",
)
KEPT = BUILD / "sections"
RESULTS = REPOSITORY / "build" / "bench-data" / "results.json"
PAGE = REPOSITORY / "docs" / "performance.md"
FROM_HERE, TO_HERE = "<!-- written by benchmarks.run --publish, from here -->", "<!-- to here -->"
CAPACITY_PAGE = REPOSITORY / "docs" / "capacity.md"
# Above this, something else was running when a section began. (The load average still remembers the section before.)
QUIET_PERCENT = 20.0
LOOK_SECONDS = 1.0


def commit() -> str:
    """What is measured: the commit, with a mark where files differ from it."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def kept(name: str) -> dict[str, Any] | None:
    """What the last run of a section found."""
    path = KEPT / f"{name}.json"
    found: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return found


def run_section(name: str, *, quick: bool) -> dict[str, Any]:
    """Measure, and keep what was found (or how it failed)."""
    before, began = describe() | {"busy_percent": psutil.cpu_percent(LOOK_SECONDS)}, time.monotonic()
    found: dict[str, Any] = {"section": name, "quick": quick, "commit": commit(), "machine": before}
    rows: dict[str, Any] = {}
    data: dict[str, Any] = {}
    try:
        for known in importlib.import_module(f"benchmarks.sections.{name}").measure(quick):
            rows |= {row.what: row._asdict() for row in known.rows}
            data |= known.data
    except (Exception, SystemExit) as error:  # noqa: BLE001 - printed, kept in the table, and the exit status says it
        traceback.print_exc()
        found["failed"] = f"{type(error).__name__}: {error}"
    found |= {"rows": list(rows.values()), "data": data}
    found["seconds"] = round(time.monotonic() - began, 1)
    KEPT.mkdir(parents=True, exist_ok=True)
    half = KEPT / f"{name}.half"
    half.write_text(json.dumps(found, indent=1))
    half.replace(KEPT / f"{name}.json")
    return found


def number(value: float) -> str:
    """Three figures that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def line(found: dict[str, Any]) -> list[str]:
    """what, measured, spread, bar, met."""
    row = Row(**found)
    bar = "" if row.met is None else f"≥ {row.at_least:g}" if row.at_least is not None else f"≤ {row.at_most:g}"
    note = f" ({row.note})" if row.note else ""
    if row.median is None:
        return [row.what + note, "-", "", bar, "" if row.met is None else "no"]
    spread = f"{number(min(row.values))} … {number(max(row.values))}" if len(row.values) > 1 else ""
    return [
        row.what + note,
        f"{number(row.median)} {row.unit}".strip(),
        spread,
        bar,
        "" if row.met is None else "yes" if row.met else "**no**",
    ]


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown, for docs/performance.md and a terminal alike."""
    lines = [["what", "measured", "spread", "bar", "met"], ["---"] * 5]
    for found in results:
        if "failed" in found:
            lines.append([f"{found['section']}: failed: {found['failed']}", "-", "", "", "**no**"])
        lines += [line(row) for row in found["rows"]]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def draw(folder: Path) -> str:
    """The plots, in the peers' environment, which has matplotlib; a sentence when that is not there."""
    if not PYTHON.exists():
        return "no plots: build/bench is not there (the section `embedding` makes it)"
    done = subprocess.run(
        [str(PYTHON), str(REPOSITORY / "benchmarks" / "plots.py"), str(RESULTS), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{folder}: {done.stdout.strip()}" if not done.returncode else f"no plots: {done.stderr.strip()[-300:]}"


def circumstances(results: Sequence[dict[str, Any]]) -> str:
    """Sentences without which the table says nothing."""
    machine = results[0]["machine"]
    busy = [found["machine"].get("busy_percent", 100.0) for found in results]
    sizes = "small (`--quick`)" if any(found["quick"] for found in results) else "full"
    commits = ", ".join(dict.fromkeys(found["commit"] for found in results))
    return (
        f"{machine['cores']} cores ({machine['cpu']}, {'with' if machine['bf16'] else 'without'} bf16), Python "
        f"{machine['python']}; sizes: {sizes}; commit {commits}; {sum(found['seconds'] for found in results) / 60:.0f} minutes; "
        f"when the sections began, other work took {min(busy):.0f} to {max(busy):.0f} % of the cores"
        f"{' (so these times are no promise)' if max(busy) > QUIET_PERCENT else ''}."
    )


def publish(results: Sequence[dict[str, Any]]) -> None:
    """Put tables and circumstances into docs/performance.md and docs/capacity.md, between their marks."""
    put(PAGE, results, table(results))
    found = {each["section"]: each for each in results}
    if found.get("capacity", {}).get("data"):
        used = [found[name] for name in ("capacity", "backfill") if name in found]
        share = share_of_bare(found["backfill"]) if "backfill" in found else None
        put(CAPACITY_PAGE, used, capacity.page(found["capacity"]["data"], share))


def put(page: Path, results: Sequence[dict[str, Any]], text: str) -> None:
    """Replace what stands between the page's two marks."""
    before, _, rest = page.read_text().partition(FROM_HERE)
    _, _, after = rest.partition(TO_HERE)
    if not rest or not after:
        raise SystemExit(f"{page} has not both marks, {FROM_HERE} and {TO_HERE}; put them where the table should stand")
    page.write_text(f"{before}{FROM_HERE}\n{circumstances(results)}\n\n{text}\n{TO_HERE}{after}")


def write(results: Sequence[dict[str, Any]]) -> None:
    """results.json and table.md."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({found["section"]: found for found in results}, indent=1))
    RESULTS.with_name("table.md").write_text(table(results) + "\n")


def main() -> int:
    """1 when a section could not be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help=f"sections, with commas between: {', '.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    parser.add_argument("--resume", action="store_true", help="leave out sections that were measured in this size")
    parser.add_argument("--table", action="store_true", help="measure nothing; print what is kept")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="put the tables into docs/performance.md and docs/capacity.md too, and the plots into docs/images",
    )
    parser.add_argument("--no-plots", action="store_true", help="draw nothing")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(SECTIONS)
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    for place, name in enumerate(chosen if not options.table else [], start=1):
        before = kept(name)
        if options.resume and before and "failed" not in before and before["quick"] == options.quick:
            continue
        print(f"== {name} ({place} of {len(chosen)})", file=sys.stderr)
        seconds = run_section(name, quick=options.quick)["seconds"]
        print(f"== {name} took {seconds:.0f} s", file=sys.stderr)
    results = [found for found in map(kept, SECTIONS) if found is not None]
    write(results)
    print(table(results))
    if options.publish and results:
        publish(results)
    print(f"\n{Path(RESULTS).relative_to(REPOSITORY)}", file=sys.stderr)
    if not options.no_plots:
        folder = REPOSITORY / "docs" / "images" if options.publish else RESULTS.with_name("images")
        print(draw(folder), file=sys.stderr)
    return int(any("failed" in found for found in results if found["section"] in chosen))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; --resume goes on with the section that was under way", file=sys.stderr)
        sys.exit(130)
