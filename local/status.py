"""`status`: what runs, what it needs, and how far behind it is."""

import shlex
import sys
import time
from typing import Any

import orjson
import psutil
from rich.console import Console
from rich.table import Table

from local.folder import Folder
from local.gauges import PASSING, Gauges, Reading
from local.stack import endpoints

MEGABYTE = 10**6


def status(folder: Folder, *, as_json: bool) -> int:
    """Print it; 0 while a stack runs on the folder, 1 when none does."""
    pid = folder.running_pid()
    report = _report(folder, pid)
    if as_json:
        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    else:
        _show(Console(highlight=False, soft_wrap=True), folder, report)
    return 0 if pid is not None else 1


def environment(folder: Folder) -> int:
    """Print the settings of the owner's commands as a shell sets them; 1 when nothing runs on the folder."""
    if folder.running_pid() is None or not (state := folder.state()):
        print(f"nothing runs on {folder.path}; start it with `python -m local up`", file=sys.stderr)
        return 1
    for name, value in {**endpoints(state), "AVIARY_POSTGRES_DSN": state["postgres_dsn"]}.items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def _report(folder: Folder, pid: int | None) -> dict[str, Any]:
    state = folder.state() if pid is not None else {}
    report: dict[str, Any] = {"running": pid is not None, "supervisor_pid": pid, "data_dir": str(folder.path)}
    report["state"] = state
    report["processes"] = [_process(entry) for entry in state.get("processes", [])]
    if state:
        try:
            with Gauges(state) as gauges:
                report |= _numbers(gauges.read())
        except PASSING as error:
            report["trouble"] = f"the numbers cannot be read now ({type(error).__name__})"
    return report


def _process(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry of state.json with the memory it has in fact, in bytes."""
    rss = 0
    try:
        process = psutil.Process(entry["pid"])
        # Postgres is a process for each connection; their shared memory would be counted again and again.
        rss = process.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return {**entry, "rss_bytes": rss}


def _numbers(reading: Reading) -> dict[str, Any]:
    return {
        "sources": [
            source._asdict() | {"other": source.other and source.other._asdict()} for source in reading.sources
        ],
        "queued_messages": reading.queued,
        "messages_in_flight": reading.in_flight,
        "dead_letters": reading.dead_letters,
        "settled": reading.settled,
    }


def _show(console: Console, folder: Folder, report: dict[str, Any]) -> None:
    if not report["running"]:
        console.print(f"nothing runs on {folder.path}; start it with `python -m local up`", markup=False)
        return
    if not report["state"]:
        console.print(f"it is still starting (pid {report['supervisor_pid']}; log: {folder.events})", markup=False)
        return
    processes = Table("process", "pid", "state", "ready since", "restarts", "memory", box=None, pad_edge=False)
    for entry in report["processes"]:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["since"])) if entry["since"] else "-"
        memory = f"{entry['rss_bytes'] / MEGABYTE:,.0f} MB"
        processes.add_row(entry["name"], str(entry["pid"]), entry["state"], since, str(entry["restarts"]), memory)
    console.print(processes)
    console.print()
    if "trouble" in report:
        console.print(report["trouble"], style="yellow", markup=False)
        return
    sources = Table("source", "table", "rows", "vectors", "waiting", box=None, pad_edge=False)
    for source in report["sources"]:
        waiting = f"{source['outbox']:,}" + (" and a backfill" if source["backfilling"] else "")
        if source["backfill_seconds_left"] is not None:
            waiting += f", sent in about {source['backfill_seconds_left']:,.0f} s"
        sources.add_row(source["name"], source["table"], f"{source['rows']:,}", f"{source['vectors']:,}", waiting)
    console.print(sources)
    for source in report["sources"]:
        if other := source["other"]:
            console.print(f"{source['name']}: {_other(other)}", markup=False)
    console.print(
        f"\nqueue: {report['queued_messages']:,} messages waiting, {report['messages_in_flight']:,} in work; "
        f"dead letters: {report['dead_letters']:,}\nfrontend: {report['state']['frontend_url']}\nlogs: {folder.logs}",
        markup=False,
    )


def _other(place: dict[str, Any]) -> str:
    """A source's second place, in one line."""
    filled = f", {place['enqueued']:,} of about {place['total']:,} rows read" if place["state"] == "building" else ""
    return (
        f"{place['namespace']} is {place['state']} beside it ({place['model']}): {place['vectors']:,} vectors{filled}"
    )
