"""Structured logs: one JSON object a line on stderr, and metrics in CloudWatch's embedded metric format.

Never log a row's contents, a key, a DSN or a secret: counts, names and times only. `event` names what
happened in snake_case; everything else is a field, given to `log()`.
"""

import json
import logging
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TextIO

import orjson

METRIC_NAMESPACE = "Aviary"
# The loggers whose messages are names of events.
OURS = frozenset({"aviary", "emu", "frontend", "pelican", "__main__"})
LIBRARY_MESSAGE_CHARS = 200


class JsonFormatter(logging.Formatter):
    """`{"time","level","service","event",…fields}`.

    An exception adds its type, where it was raised and by which line of ours, not its text (texts of database and HTTP
    errors quote row contents). A library's message is kept without what the library put into it, for the same reason.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        ours = _is_ours(record.name)
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "event": record.getMessage() if ours else _template(record.msg),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, Mapping):
            line.update(fields)
        if not ours:
            line["at"] = f"{record.module}:{record.lineno}"
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line.update(_places(record.exc_info[2]))
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:  # half of a surrogate pair, which JSON itself can hold
            return json.dumps(line, default=str)


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] in OURS


def _template(message: object) -> str:
    """The first line of a message before anything was put into it: what comes further down quotes objects."""
    lines = message.splitlines() if isinstance(message, str) else [type(message).__name__]
    return lines[0][:LIBRARY_MESSAGE_CHARS] if lines else ""


def _places(trace: TracebackType | None) -> dict[str, str]:
    """`at`: where it was raised; `by`: the innermost line of ours on the way there, when that is another one."""
    frames = []
    while trace is not None:
        frames.append((str(trace.tb_frame.f_globals.get("__name__")), trace.tb_lineno))
        trace = trace.tb_next
    own = [frame for frame in frames if _is_ours(frame[0])]
    found = {"at": f"{frames[-1][0]}:{frames[-1][1]}"} if frames else {}
    return found | ({"by": f"{own[-1][0]}:{own[-1][1]}"} if own and own[-1] != frames[-1] else {})


def configure(service: str, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send all logging of this process to `stream` (stderr) as JSON lines. Libraries speak from WARNING up."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("boto3", "botocore", "urllib3", "httpx", "httpcore", "pinecone", "uvicorn.access", "psycopg"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    # What nobody caught would be printed with its text.
    sys.excepthook = _uncaught
    threading.excepthook = lambda given: _uncaught(given.exc_type, given.exc_value, given.exc_traceback)
    sys.unraisablehook = lambda given: _uncaught(given.exc_type, given.exc_value, given.exc_traceback)


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt | SystemExit):
        info = (kind, error or kind(), trace)
        logging.getLogger("aviary").critical("uncaught", exc_info=info)


def log(logger: logging.Logger, level: int, event: str, **fields: object) -> None:
    """One event with its fields."""
    logger.log(level, event, extra={"fields": fields})


def metrics(logger: logging.Logger, service: str, values: Mapping[str, tuple[float, str]]) -> None:
    """One embedded-metric-format line: name → (value, CloudWatch unit such as "Count" or "Milliseconds").

    CloudWatch Logs turns it into metrics in the namespace `Aviary` with the dimension `service`; elsewhere it is
    a log line like any other. https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
    """
    envelope = {
        "Timestamp": int(time.time() * 1000),
        "CloudWatchMetrics": [
            {
                "Namespace": METRIC_NAMESPACE,
                "Dimensions": [["service"]],
                "Metrics": [{"Name": name, "Unit": unit} for name, (_, unit) in values.items()],
            }
        ],
    }
    fields = {"_aws": envelope, "service": service} | {name: value for name, (value, _) in values.items()}
    logger.info("metrics", extra={"fields": fields})
