"""The JSON API against requests that its document allows, and many that it does not. `make fuzz` does this for long."""

import re
import subprocess
from pathlib import Path

from benchmarks.fuzz import command, environment
from tests.services.frontend.site import Site

EXAMPLES = 12  # for each operation, beside those of the coverage phase


def test_nothing_that_is_asked_makes_the_api_fail_or_break_its_own_document(site: Site, tmp_path: Path) -> None:
    for name in ("Lamp", "Kettle", ""):
        site.insert(name)
    site.index_rows()
    options = ("--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES), "--generation-deterministic")
    done = subprocess.run(
        command(site.server.url, *options),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated, done.stdout
    assert int(generated[1]) >= 300, "it must ask for something"
