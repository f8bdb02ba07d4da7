"""What a log line keeps of errors and of libraries' messages: what happened and where, never what it was about."""

import io
import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from aviary import logs

SECRET = "Zanzibar-4711"


# An asyncio task whose error nobody asks for.
LOST_TASK = """
import asyncio, gc
async def fail(): raise ValueError(secret)
async def forget():
    asyncio.ensure_future(fail())
    await asyncio.sleep(0)
asyncio.run(forget())
gc.collect()"""


def lines(log_stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log_stream.getvalue().splitlines()]


def test_a_librarys_message_is_kept_without_what_it_put_into_it(log_stream: io.StringIO) -> None:
    library = logging.getLogger("some.library")
    library.warning("error connecting in %r: %s", "pool", SECRET)
    library.error("Task exception was never retrieved\nfuture: <Task exception=%s>" % SECRET)  # noqa: UP031 - as libraries do
    library.warning(ValueError(SECRET))
    library.warning("%(who)s failed", {"who": SECRET})
    library.warning("x" * 5_000)
    found = lines(log_stream)
    events = [line["event"] for line in found]
    assert events[:4] == [
        "error connecting in %r: %s", "Task exception was never retrieved", "ValueError", "%(who)s failed",
    ]  # fmt: skip
    assert len(events[4]) == 200
    assert all(line["at"].startswith("test_logs:") for line in found)
    assert SECRET not in log_stream.getvalue()


def test_an_error_is_its_type_where_it_was_raised_and_our_line_on_the_way(log_stream: io.StringIO) -> None:
    try:
        logs.JsonFormatter("x").format(None)  # type: ignore[arg-type] # fails inside a module of ours
    except AttributeError:
        logging.getLogger("pelican.worker").exception("turn_failed")
    try:
        json.loads(SECRET)
    except ValueError as error:
        logging.getLogger("emu.worker").exception("unit_failed", exc_info=error)
    first, second = lines(log_stream)
    assert (first["event"], first["error"]) == ("turn_failed", "AttributeError")
    assert first["at"].startswith("aviary.logs:")
    assert (second["error"], second["at"].partition(":")[0]) == ("JSONDecodeError", "json.decoder")
    assert SECRET not in log_stream.getvalue()


def test_an_error_of_a_library_names_the_line_of_ours_that_asked_for_it() -> None:
    code = compile("import json\njson.loads('{')", "store.py", "exec")
    try:
        exec(code, {"__name__": "frontend.store"})  # noqa: S102 - a module of ours, made up
    except ValueError as error:
        record = logging.LogRecord(
            "frontend", logging.ERROR, "", 0, "failed", None, (type(error), error, error.__traceback__)
        )
    line = json.loads(logs.JsonFormatter("frontend").format(record))
    assert line["at"].startswith("json.decoder:")
    assert line["by"] == "frontend.store:2"


def test_half_of_a_surrogate_pair_in_a_field_is_still_one_line(log_stream: io.StringIO) -> None:
    logs.log(logging.getLogger("pelican"), logging.INFO, "source", name="\ud800")
    assert lines(log_stream)[0]["name"] == "\ud800"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise ValueError(secret)", 1),
        ("t = threading.Thread(target=lambda: json.loads(secret)); t.start(); t.join()", 0),
        ("class A:\n def __del__(self): raise ValueError(secret)\nA()", 0),
        (LOST_TASK, 0),
        ("import logging; logging.getLogger('x').error('%d', secret)", 0),
    ],
)
def test_what_nobody_catches_is_a_line_without_its_text(code: str, status: int) -> None:
    program = f"import json, sys, threading\nfrom aviary import logs\nlogs.configure('x')\nsecret = sys.argv[1]\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", program, SECRET], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["level"] in ("CRITICAL", "ERROR")
    assert SECRET not in done.stdout + done.stderr
