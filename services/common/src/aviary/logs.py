"""Structured logs: one JSON object a line on stderr, and metrics in CloudWatch's embedded metric format.

Never log a row's contents, a key, a DSN or a secret: counts, names and times only. `event` names what
happened in snake_case; everything else is a field, given to `log()`.
"""

import logging
import sys
import time
from collections.abc import Mapping
from typing import TextIO

import orjson

METRIC_NAMESPACE = "Aviary"


class JsonFormatter(logging.Formatter):
    """`{"time","level","service","event",…fields}`; an exception adds its type and where it was raised, not its text
    (texts of database and HTTP errors quote row contents)."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "event": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, Mapping):
            line.update(fields)
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            trace = record.exc_info[2]
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            if trace is not None:
                line["at"] = f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}"
        return orjson.dumps(line, default=str).decode()


def configure(service: str, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send all logging of this process to `stream` (stderr) as JSON lines. Libraries speak from WARNING up."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("boto3", "botocore", "urllib3", "httpx", "httpcore", "pinecone", "uvicorn.access", "psycopg"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


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
