"""A command whose output nobody reads to its end says nothing about that."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def ended(*arguments: str) -> tuple[int, str]:
    """Status and stderr of a Python command of whose output nothing is read."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout
        process.stdout.close()
        _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("pelican sources --help", -signal.SIGPIPE),
        ("emu dlq list --help", -signal.SIGPIPE),
        ("blueprint --help", -signal.SIGPIPE),
        ("chaos --list", -signal.SIGPIPE),
        ("local status --data-dir absent", 1),  # what rich has printed
    ],
)
def test_a_list_of_which_only_the_head_is_read_ends_quietly(command: str, status: int) -> None:
    assert ended("-m", *command.split()) == (status, "")


@pytest.mark.parametrize("size", [10, 10_000_000])
def test_it_ends_quietly_however_much_is_left_to_say(size: int) -> None:
    program = f"from aviary.pipes import ending_quietly\nwith ending_quietly(): print('x' * {size})"
    assert ended("-c", program) == (-signal.SIGPIPE, "")


def test_a_connection_that_breaks_is_an_error_all_the_same() -> None:
    program = (
        "import os\nfrom aviary.pipes import ending_quietly\nwith ending_quietly():\n"
        "    reader, writer = os.pipe()\n    os.close(reader)\n    os.write(writer, b'x')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("BrokenPipeError")
