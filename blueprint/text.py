"""The preview as text: for a terminal, and without colours for a file."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from blueprint import prices
from blueprint.advice import advice
from blueprint.cost import Estimate, estimate
from blueprint.graph import Graph, Resource
from blueprint.permissions import Permission, permissions
from blueprint.reach import public, reach

# Of a file, such as a step summary, that no terminal gives a width.
WIDTH_CHARS = 120
# Lines of the estimate that are worth a name of their own.
SHARE_WORTH_NAMING = 0.05
MAX_ADVICE = 5


def console() -> Console:
    """Colours and the terminal's width where there is one."""
    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=WIDTH_CHARS, no_color=True)


@contextmanager
def tidy(to: Console) -> Iterator[Console]:
    """What is written to a file has no spaces at the ends of its lines."""
    if to.is_terminal:
        yield to
        return
    with to.capture() as captured:
        yield to
    to.file.write("\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")


def show(graphs: Mapping[str, Graph], stacks: Sequence[str], to: Console) -> None:
    """Each of `stacks` whole, then the cost of all `graphs` side by side."""
    for stack in stacks:
        graph = graphs[stack]
        to.rule(f"[bold]{graph.project} {stack}[/]", align="left")
        _section(to, f"{len(graph.resources)} resources", _resources(graph))
        _section(to, "Who may open connections to whom", _reach(graph))
        _section(to, "Public", _lines(public(graph)) if public(graph) else Text("nothing"))
        _section(to, "What each task may do in AWS", _permissions(permissions(graph)))
        if graph.messages:
            _section(to, "What the program says", _lines(f"{level}: {text}" for level, text in graph.messages))
    show_cost(graphs, stacks, to)


def show_cost(graphs: Mapping[str, Graph], stacks: Sequence[str], to: Console) -> None:
    """The estimates of all graphs side by side; for each of `stacks` what dominates, and how to go lower."""
    table = prices.load()
    estimates = {stack: estimate(graph) for stack, graph in graphs.items()}
    to.print()
    to.rule(f"[bold]Estimated cost[/], US dollars, us-east-1, list prices of {table.as_of}", align="left")
    _section(to, "A month of idling", _groups(estimates))
    for stack in stacks:
        found = estimates[stack]
        _section(to, f"{stack}: what dominates its {found.monthly:.2f} $", _dominating(found))
        hints = advice(graphs[stack], found, table)[:MAX_ADVICE]
        lower = (f"-{hint.saving:7.2f} $  {hint.sentence}" for hint in hints)
        _section(to, f"{stack}: how to go lower", _lines(lower) if hints else Text("nothing left to switch off"))
        if found.unpriced:
            _section(to, f"{stack}: not in the estimate", _lines(found.unpriced))
    _section(to, "And for use", _rates(estimates))
    minimum = table["pinecone_standard_minimum_month"]
    notes = [
        f"Pinecone is paid to Pinecone: nothing on the Starter plan, at least {minimum:.0f} $ a month on Standard.",
        "Left out: AWS's free tier (it would cover alarms, dashboard and some logs), discounts, support, tax.",
        "Each figure, its source and how to refresh it: blueprint/prices.toml.",
        *(f"{key}: {price.note}" for key, price in table.table.items() if price.note and key in _used(graphs)),
    ]
    _section(to, "Notes", _lines(notes))


def _section(to: Console, title: str, body: RenderableType) -> None:
    to.print()
    to.print(f"[bold cyan]{escape(title)}[/]")
    to.print(Padding(body, (0, 0, 0, 2)))


def _lines(lines: object) -> RenderableType:
    return Group(*(Text(str(line)) for line in lines))  # type: ignore[attr-defined] # any iterable


def _resources(graph: Graph) -> Tree:
    tree = Tree(f"[bold]{graph.project}-{graph.stack}[/]", guide_style="dim")
    roots = [r for r in graph.resources if r.parent.split("::")[2:3] == ["pulumi:pulumi:Stack"]]
    _branch(graph, tree, roots)
    return tree


def _branch(graph: Graph, tree: Tree, resources: Sequence[Resource]) -> None:
    components = [r for r in resources if not r.custom and graph.children(r.urn)]
    for component in sorted(components, key=lambda r: (r.type, r.name)):
        count = _count(graph, component)
        name = graph.short_name(component.name)
        called = "" if name == f"{graph.project}-{graph.stack}" else f" {name}"
        kind = component.type.rpartition(":")[2]
        branch = tree.add(f"[bold]{kind}[/]{escape(called)} [dim]({count})[/]")
        _branch(graph, branch, graph.children(component.urn))
    leaves = Counter(r.type.rpartition(":")[2] for r in resources if r not in components)
    if leaves:
        listed = ", ".join(kind if n == 1 else f"{n} {kind}" for kind, n in sorted(leaves.items()))
        tree.add(f"[dim]{listed}[/]")


def _count(graph: Graph, resource: Resource) -> int:
    children = graph.children(resource.urn)
    return len(children) + sum(_count(graph, child) for child in children)


def _reach(graph: Graph) -> RenderableType:
    found = reach(graph)
    width = max((len(link.source) for link in found.links), default=0)
    lines = [f"{link.source:<{width}} ──{link.port!s:─^8}──► {link.target}" for link in found.links]
    lines += [f"{link.source} to {link.target} on {link.port}: only one side allows it" for link in found.half]
    return _lines(lines)


def _permissions(found: Sequence[Permission]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("task", no_wrap=True)
    table.add_column("to", no_wrap=True)
    table.add_column("may", overflow="fold")
    table.add_column("on", overflow="fold")
    before = ("", "")
    for one in found:
        now = (one.task, one.use)
        on = ", ".join(one.shown) + (f"\n[dim]if {escape(one.condition)}[/]" if one.condition else "")
        table.add_row(
            one.task if now[0] != before[0] else "",
            one.use if now != before else "",
            ", ".join(one.actions),
            on,
        )
        before = now
    return table


def _money(columns: Sequence[str], first: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _groups(estimates: Mapping[str, Estimate]) -> Table:
    table = _money(list(estimates), "")
    groups = {stack: found.groups() for stack, found in estimates.items()}
    names = dict.fromkeys(name for found in groups.values() for name in found)
    for name in names:
        table.add_row(name, *(f"{found[name]:.2f}" if name in found else "" for found in groups.values()))
    table.add_section()
    table.add_row("[bold]total[/]", *(f"[bold]{found.monthly:.2f}[/]" for found in estimates.values()))
    return table


def _dominating(found: Estimate) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    table.add_column(style="dim")
    named = [line for line in found.idle if line.monthly >= SHARE_WORTH_NAMING * found.monthly]
    for line in named:
        table.add_row(f"{line.monthly:.2f}", f"{line.monthly / found.monthly:.0%}", line.what, line.sentence)
    rest = found.monthly - sum(line.monthly for line in named)
    table.add_row(f"{rest:.2f}", f"{rest / found.monthly:.0%}", f"{len(found.idle) - len(named)} smaller lines", "")
    return table


def _rates(estimates: Mapping[str, Estimate]) -> Table:
    table = _money(list(estimates), "each")
    table.add_column("which is", style="dim")
    units = dict.fromkeys(rate.unit for found in estimates.values() for rate in found.rates)
    for unit in units:
        found = [next((r for r in each.rates if r.unit == unit), None) for each in estimates.values()]
        sentence = next(rate.sentence for rate in found if rate)
        table.add_row(unit, *(f"{rate.price:.3f}" if rate else "" for rate in found), sentence)
    return table


def _used(graphs: Mapping[str, Graph]) -> set[str]:
    """Keys of the price list that may carry a note for these stacks."""
    sizes = {str(d.inputs["instanceClass"]) for graph in graphs.values() for d in graph.of("aws:rds:Instance")}
    insights = {"insights_metrics_per_service"} if any(_watched(graph) for graph in graphs.values()) else set()
    return sizes | insights | {"fargate_spot_share", "kms_key_month"}


def _watched(graph: Graph) -> bool:
    return any(setting["value"] == "enabled" for c in graph.of("aws:ecs:Cluster") for setting in c.inputs["settings"])
