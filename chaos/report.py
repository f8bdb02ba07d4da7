"""The report of a run: for people (Markdown) and for programs (JSON)."""

import os
import platform
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from chaos.faults import FAULTS
from chaos.probe import Recovery
from chaos.run import Outcome, Seen
from chaos.users import Made
from chaos.world import Loss

ZERO = (
    "lost",
    "stale",
    "orphaned",
    "versions_that_went_back",
    "aborted",
    "trigger_warnings",
    "dead_letters",
    "not_settled",
    "processes_that_ended_by_themselves",
)


class Asked(NamedTuple):
    """The command line of a run, and the machine it ran on."""

    seed: int
    minutes: float
    operations: int
    faults: int
    took_seconds: float
    load: tuple[float, float]


def report(asked: Asked, outcome: Outcome, made: Made, unexpected: Sequence[Loss]) -> dict[str, Any]:
    """Everything that is to be told, as plain data. `failures` says what must not be; empty when all is well."""
    kinds = Counter(injection.kind.name for seen in outcome.seen for injection in seen.episode.injections)
    # What remained once queues were empty and, after the loss of the queue's state only, reconcile had run.
    lost, stale, orphaned = (
        sum(len(_left(seen)[n]) for seen in outcome.seen) + len(outcome.final[n]) for n in range(3)
    )
    answer: dict[str, Any] = {
        "seed": asked.seed,
        "asked": {"minutes": asked.minutes, "operations": asked.operations, "faults": asked.faults},
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()}, Python {platform.python_version()}",
        "load_before_and_after": asked.load,
        "took_seconds": round(asked.took_seconds, 1),
        "operations": sum(made.committed.values()),
        "operations_by_kind": dict(sorted(made.committed.items())),
        "faults": sum(kinds.values()),
        "kinds": len(kinds),
        "faults_by_kind": dict(sorted(kinds.items())),
        "lost": lost,
        "stale": stale + outcome.wrong_vectors,
        "orphaned": orphaned,
        "versions_that_went_back": outcome.went_back,
        "aborted": len(made.aborted),
        "aborted_examples": [each._asdict() for each in made.aborted[:10]],
        "trigger_warnings": dict(made.warnings),
        "interrupted_by_injected_postgres_faults": made.interrupted,
        "user_transaction_seconds": _spread(made.seconds),
        "dead_letters": outcome.dead_letters,
        "not_settled": outcome.unsettled,
        "processes_that_ended_by_themselves": [f"{loss.name}: {loss.why}" for loss in unexpected],
        "recovery": _recoveries(outcome.seen),
        "repaired_by_reconcile": [
            {"faults": _names(seen), "before": _counts(seen.drift), "after": _counts(seen.left)}
            for seen in outcome.seen
            if seen.repaired
        ],
        "differences": [
            {
                "faults": _names(seen),
                "lost": seen.drift.lost,
                "stale": seen.drift.stale,
                "orphaned": seen.drift.orphaned,
            }
            for seen in outcome.seen
            if seen.drift.total
        ],
    }
    failures = [name for name in ZERO if answer[name]]
    failures += [f"no recovery after {_names(seen)}" for seen in outcome.seen if None in seen.recovery]
    return {**answer, "failures": failures}


def _left(seen: Seen) -> Any:
    """What counts against a run: only the loss of the queue's state may be left to reconcile."""
    return seen.left if _names(seen) == ["queue lost"] else seen.drift


def _names(seen: Seen) -> list[str]:
    return [injection.kind.name for injection in seen.episode.injections]


def _counts(drift: Iterable[Sequence[object]]) -> dict[str, int]:
    return dict(zip(("lost", "stale", "orphaned"), map(len, drift), strict=True))


def _recoveries(seen: Sequence[Seen]) -> dict[str, Any]:
    groups: dict[str, list[Recovery]] = defaultdict(list)
    for one in seen:
        groups[one.episode.name].append(one.recovery)
        if one.episode.name in {"pelican killed", "emu killed", "frontend killed"}:
            groups["any service killed"].append(one.recovery)
    return {
        name: {
            "next_change": _spread([r.next_change for r in each if r.next_change is not None]),
            "every_shard": _spread([r.every_shard for r in each if r.every_shard is not None]),
        }
        for name, each in sorted(groups.items())
    }


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {"count": 0}
    return {
        "count": len(seconds),
        "median": round(statistics.median(seconds), 3),
        "least": round(min(seconds), 3),
        "most": round(max(seconds), 3),
    }


def write(folder: Path, answer: dict[str, Any]) -> Path:
    """report.json and report.md in the folder (made when absent); the path of the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(answer), indent=2) + b"\n")
    text = folder / "report.md"
    text.write_text(markdown(answer))
    return text


def markdown(answer: dict[str, Any]) -> str:
    """The report for people."""
    asked = answer["asked"]
    before, after = answer["load_before_and_after"]
    bad = ", ".join(answer["failures"])
    lines = [
        "# Chaos report",
        "",
        (
            f'`make chaos ARGS="--seed {answer["seed"]} --minutes {asked["minutes"]:g} --operations {asked["operations"]} '
            f'--faults {asked["faults"]}"` on {answer["machine"]}; load average {before:.1f} before, {after:.1f} after.'
        ),
        "",
        f"**{'All promises held' if not bad else 'NOT KEPT: ' + bad}.**",
        "",
        "| | |",
        "|---|---|",
        f"| user transactions | {answer['operations']:,} in {answer['took_seconds']:.0f} s |",
        f"| faults | {answer['faults']} of {answer['kinds']} kinds |",
        f"| lost, stale, orphaned | {answer['lost']}, {answer['stale']}, {answer['orphaned']} |",
        f"| versions that went back | {answer['versions_that_went_back']} |",
        f"| user transactions aborted by us | {answer['aborted']} |",
        f"| cut off by an injected Postgres fault, and made again | {answer['interrupted_by_injected_postgres_faults']} |",
        f"| dead letters | {answer['dead_letters']} |",
        f"| processes that ended by themselves | {len(answer['processes_that_ended_by_themselves'])} |",
        "",
        (
            "Seconds from the end of a fault (of a kill: from the signal) until the next change, and a change of every one of the "
            "16 shards, is found by a search: median (least to most). A storm is several overlapping faults."
        ),
        "",
        "| fault | what | times | next change | every shard |",
        "|---|---|---|---|---|",
    ]
    for name, recovery in answer["recovery"].items():
        what = FAULTS[name][0].what if name in FAULTS else ""
        count = recovery["next_change"]["count"]
        cells = " | ".join(_cell(recovery[part]) for part in ("next_change", "every_shard"))
        lines.append(f"| {name} | {what} | {count} | {cells} |")
    lines += ["", "## What needed reconcile", ""]
    for repaired in answer["repaired_by_reconcile"]:
        was, now = (", ".join(f"{n} {k}" for k, n in repaired[when].items()) for when in ("before", "after"))
        lines.append(f"- {' + '.join(repaired['faults'])}: {was}; after `pelican reconcile --repair`: {now}")
    if not answer["repaired_by_reconcile"]:
        lines.append("Nothing: after every fault the index was f(table) again by itself.")
    else:
        lines += ["", "After every other fault the index was f(table) again by itself."]
    for aborted in answer["aborted_examples"]:
        lines.append(f"- aborted: {aborted['operation']}: {aborted['error']}")
    return "\n".join(lines) + "\n"


def _cell(spread: dict[str, float]) -> str:
    if not spread["count"]:
        return "never"
    return f"{spread['median']:.2f} ({spread['least']:.2f} to {spread['most']:.2f})"
