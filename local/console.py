"""Shows events to a person: bars and colour on a terminal, plain lines anywhere else."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from local.events import Event

# A log that is not a terminal gets a line at each of these shares of the work.
PLAIN_STEPS = 4
TITLES = {"start": "starting", "load": "loading rows", "index": "indexing rows", "check": "checking rows"}


class Screen:
    """Renders a stream of events; `close` takes the bars away. Not for use by several threads."""

    def __init__(self, console: Console | None = None, *, clock: bool = True) -> None:
        """`clock`: begin lines with the time where they go to a file."""
        self._clock = clock
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._shown: dict[str, int] = {}

    def show(self, event: Event) -> None:
        """One event."""
        match event.kind:
            case "progress":
                self._bar(event)
            case "service":
                pass  # counted in the bar of "start"; every change is in events.jsonl
            case "up":
                self._endpoints(event)
            case "lost":
                self._say(event, "yellow")
            case "failed":
                self.close()
                self._say(event, "bold red")
            case "searchable":
                self.close()
                self._say(event, "bold green")
            case "note" | "stopping" | "down":
                self._say(event, "")

    def close(self) -> None:
        """End the bars, if there are any."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = None
        self._tasks.clear()
        self._shown.clear()

    def _say(self, event: Event, style: str) -> None:
        clock = (
            ""
            if self.console.is_terminal or not self._clock
            else time.strftime("%H:%M:%S ", time.localtime(event.time))
        )
        self.console.print(f"{clock}{event.text}", style=style or None, markup=False)

    def _endpoints(self, event: Event) -> None:
        self._say(event, "bold")
        for name, address in event.data.items():
            self.console.print(f"  {name:<12} {address}", markup=False)

    def _bar(self, event: Event) -> None:
        title = TITLES.get(event.name, event.name)
        if not self.console.is_terminal:
            step = PLAIN_STEPS * event.done // event.total if event.total else PLAIN_STEPS
            if self._shown.get(event.name) != step:
                self._shown[event.name] = step
                self.console.print(f"{title}: {event.done:,} of {event.total:,}", markup=False)
            return
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description:<14}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self.console,
                transient=True,
            )
            self._progress.start()
        if event.name not in self._tasks:
            self._tasks[event.name] = self._progress.add_task(title, total=event.total)
        self._progress.update(self._tasks[event.name], completed=event.done, total=event.total)


def confirm(question: str) -> bool:
    """Ask; only "y" or "yes" is a yes, and a closed input is a no."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        return False
