"""The data folder: what is refused gets one sentence with the way out, and nothing of another's is touched."""

import fcntl
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from local import ports
from local.cli import main
from local.folder import Folder, FolderError

ROOT = Path(__file__).parents[3]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line that a command says when it does nothing."""
    assert main([str(argument) for argument in arguments]) == 1
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_up_refuses_a_folder_that_is_not_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("…")
    said = refused(capsys, "up", "--data-dir", tmp_path)
    assert "is not empty and not a data folder of this stack" in said
    assert "--data-dir" in said
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_up_refuses_a_file_and_a_folder_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert "is a file; name a folder" in refused(capsys, "up", "--data-dir", tmp_path / "file")
    assert "cannot be written" in refused(capsys, "up", "--data-dir", tmp_path / "file" / "under")


def test_a_folder_whose_making_was_cut_short_is_made_whole(tmp_path: Path) -> None:
    (tmp_path / "aviary.json.new").write_text("{")
    Folder(tmp_path).make()
    assert Folder(tmp_path).choices() == {"version": 1}


@pytest.mark.parametrize("content", ["", '{"version": ', "[]"])
def test_up_says_that_a_folder_is_half_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (tmp_path / "aviary.json").write_text(content)
    said = refused(capsys, "up", "--data-dir", tmp_path)
    assert "half-written or damaged; run `python -m local reset --data-dir" in said


def test_up_refuses_a_folder_of_another_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "aviary.json").write_text('{"version": 99}')
    assert "made by another version of this stack (format 99, this is 1)" in refused(
        capsys, "up", "--data-dir", tmp_path
    )


def test_up_says_that_a_database_is_half_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Folder(tmp_path).make()
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "postgresql.conf").touch()
    port = str(ports.free_port())
    done = subprocess.run(
        [sys.executable, "-m", "local", "up", "--data-dir", str(tmp_path), "--port", port],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert (
        "is not empty and holds no Postgres database; name another folder or run `python -m local reset`" in done.stdout
    )
    assert done.stderr == ""


def test_a_second_up_on_a_folder_is_refused_and_names_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Folder(tmp_path)
    folder.make()
    with folder.locked():
        folder.write_state({"frontend_url": "http://127.0.0.1:8000"})
        said = refused(capsys, "up", "--data-dir", tmp_path)
        assert f"already runs on {tmp_path} (pid {os.getpid()}, http://127.0.0.1:8000)" in said
        assert "`python -m local down`" in said
        assert folder.running_pid() == os.getpid()
    assert folder.running_pid() is None


def test_a_look_at_the_lock_does_not_keep_an_up_out(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.make()
    (tmp_path / "lock").touch()
    with (tmp_path / "lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.05, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        with folder.locked():
            assert folder.running_pid() == os.getpid()


def test_a_busy_port_is_named_with_who_has_it_and_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        said = refused(capsys, "up", "--data-dir", tmp_path, "--port", str(port))
    assert re.search(
        rf"port {port} is used by \S+ \(pid {os.getpid()}\); stop that, or choose another with --port", said
    )


def test_ports_stay_the_same_unless_someone_took_one(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.make()
    first, _ = folder.ports(["sqs", "emu-1"], {"frontend": 8000})
    again, notes = folder.ports(["emu-1", "sqs", "emu-2"], {"frontend": 8001})
    assert notes == []
    assert {name: again[name] for name in ("sqs", "emu-1")} == {name: first[name] for name in ("sqs", "emu-1")}
    assert len(set(again.values())) == 4
    with socket.create_server(("127.0.0.1", first["sqs"])):
        third, notes = folder.ports(["sqs", "emu-1"], {"frontend": 8000})
    assert third["sqs"] != first["sqs"]
    assert third["emu-1"] == first["emu-1"]
    assert notes == [f"port {first['sqs']} (sqs) is used by {notes[0].split(' is used by ')[1]}"]


def test_reset_deletes_only_what_is_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("…")
    assert "not a data folder of this stack" in refused(capsys, "reset", "--yes", "--data-dir", tmp_path)
    assert (tmp_path / "thesis.txt").exists()
    ours = tmp_path / "ours"
    Folder(ours).make()
    outside = tmp_path / "outside"
    outside.mkdir()
    (ours / "link").symlink_to(outside)
    assert main(["reset", "--yes", "--data-dir", str(ours)]) == 0
    assert not ours.exists()
    assert outside.exists()


def test_reset_asks_and_takes_silence_for_a_no(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Folder(tmp_path).make()
    for answer in ("", "no", "nein"):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert main(["reset", "--data-dir", str(tmp_path)]) == 1
    assert (tmp_path / "aviary.json").exists()
    monkeypatch.setattr("builtins.input", lambda _: "yes")
    assert main(["reset", "--data-dir", str(tmp_path)]) == 0
    assert not tmp_path.exists()


def test_commands_say_that_nothing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down", "--data-dir", str(tmp_path)]) == 0
    assert main(["status", "--data-dir", str(tmp_path)]) == 1
    assert main(["load", "x.csv", "--data-dir", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert (said.out + said.err).count(f"nothing runs on {tmp_path}") == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["up", "--emus", "0"], "'0' is not a whole number from 1 to 16"),
        (["up", "--port", "80000"], "'80000' is not a whole number from 1 to 65,535"),
        (["up", "--rows", "-5"], "'-5' is not a whole number"),
        (["load", "x.csv", "--map", "name"], "'name' is not of the form COLUMN=HEADER, such as name=Title"),
        ([], "required"),
    ],
)
def test_a_wrong_option_is_explained(capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["up", "--help"], ["load", "--help"]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "python -m local load shop.csv --map name=Title" in capsys.readouterr().out


def test_a_missing_library_is_one_sentence(tmp_path: Path) -> None:
    """Without the packages of this environment: the bare interpreter that it was made from."""
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); from local.__main__ import start; sys.exit(start())",
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"\w+ cannot be imported by .*; run `make install`, then use .*\n", done.stderr)


def test_a_lock_does_not_outlive_its_process(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.make()
    program = (
        "import os, sys; from pathlib import Path; from local.folder import Folder\n"
        "with Folder(Path(sys.argv[1])).locked(): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, timeout=30, check=False)
    assert folder.running_pid() is None
    with pytest.raises(FolderError), folder.locked(), folder.locked():
        pass
