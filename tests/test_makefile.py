"""What stands in the way of `make install` on somebody's machine is told in one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# In the place of python3, of the environment's python and of uv: it does what the real ones do on a machine that lacks
# something, and makes the next one.
STAND_IN = """#!{python}
import pathlib, shutil, sys
lacks, me, words = {lacks!r}, pathlib.Path(sys.argv[0]), sys.argv[1:]
if words[0] == "-c":
    if lacks == "version":
        sys.version_info = (3, 10, 0)
    exec(words[1])
elif words[:2] == ["-m", "venv"]:
    if lacks == "venv":
        sys.exit(1)
    folder = pathlib.Path(words[2]) / "bin"
    folder.mkdir(parents=True)
    for name in ("python", "uv"):
        shutil.copy(me, folder / name)
elif me.name == "uv" and lacks == "wheel":
    sys.exit(1)
"""


def install(folder: Path, lacks: str) -> subprocess.CompletedProcess[str]:
    python = folder / "python3"
    python.write_text(STAND_IN.format(python=sys.executable, lacks=lacks))
    python.chmod(0o755)
    command = ["make", "--no-print-directory", "install", f"PYTHON={python}", f"VENV={folder / 'venv'}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)


@pytest.mark.parametrize(
    ("lacks", "sentence"),
    [
        ("version", "Python 3.10 found; 3.11 to 3.13 is needed: make PYTHON=python3.12"),
        ("venv", "python3 cannot make virtual environments here; on Debian: apt-get install python3-venv"),
        # Elsewhere it would be built, by a compiler that may be missing.
        ("wheel", "A locked package has no prebuilt wheel for this platform. Supported: CPython 3.11 to 3.13 on Linux"),
    ],
)
def test_what_the_machine_lacks_is_one_sentence_and_nothing_counts_as_installed(
    tmp_path: Path, lacks: str, sentence: str
) -> None:
    done = install(tmp_path, lacks)
    assert done.returncode != 0
    assert sentence in done.stdout + done.stderr
    assert not (tmp_path / "venv" / ".installed").exists()


def test_with_all_that_it_needs_it_is_done_once(tmp_path: Path) -> None:
    assert install(tmp_path, "").returncode == 0
    assert (tmp_path / "venv" / ".installed").exists()
    assert install(tmp_path, "venv").returncode == 0
