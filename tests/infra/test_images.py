"""Images: tagged by what is in them, built where the program says, or given."""

import subprocess
from pathlib import Path

import pytest

from components.images import image_tag
from tests.infra.engine import ROOT, Graph, changed

IMAGE = "docker:index/image:Image"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def services(tmp_path: Path) -> Path:
    """A folder with one file, committed, in a repository that has another folder."""
    folder = tmp_path / "services"
    folder.mkdir()
    (folder / "a.py").write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return folder


def test_the_tag_is_the_commit_that_last_changed_the_folder(services: Path) -> None:
    first = git(services, "rev-parse", "--short=12", "HEAD")
    assert image_tag(services) == first
    (services.parent / "README.md").write_text("words")
    git(services.parent, "add", ".")
    git(services.parent, "commit", "-qm", "words only")
    assert image_tag(services) == first, "what is not in the images builds no new ones"


def test_what_is_in_no_commit_gets_a_tag_of_its_own(services: Path) -> None:
    committed = image_tag(services)
    (services / "a.py").write_text("2")
    changed_once = image_tag(services)
    (services / "a.py").write_text("3")
    changed_twice = image_tag(services)
    assert changed_once.startswith(f"{committed}-")
    assert len({committed, changed_once, changed_twice}) == 3


def test_a_new_file_counts_and_what_python_compiles_does_not(services: Path) -> None:
    (services / "b.py").write_text("1")
    with_file = image_tag(services)
    (services / "__pycache__").mkdir()
    (services / "__pycache__" / "b.cpython-313.pyc").write_bytes(b"x")
    assert image_tag(services) == with_file


def test_without_git_the_tag_is_what_the_files_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    folder = tmp_path / "services"
    folder.mkdir()
    (folder / "a.py").write_text("1")
    first = image_tag(folder)
    assert first.startswith("uncommitted-")
    (folder / "a.py").write_text("2")
    assert image_tag(folder) != first


def test_a_tag_is_one_that_a_registry_takes() -> None:
    tag = image_tag(ROOT / "services")
    assert len(tag) <= 128
    assert tag.replace("-", "").isalnum()


def test_images_are_built_for_the_tasks_platform_from_one_context(graph: Graph, stack: str) -> None:
    images = graph.all(IMAGE)
    assert {image.name for image in images} == {f"aviary-{stack}-{s}" for s in ("pelican", "emu", "frontend")}
    for image in images:
        service = image.name.rpartition("-")[2]
        build = image.inputs["build"]
        assert build["platform"] == "linux/arm64"
        assert build["context"] == "services", "relative, so that the state is the same on every machine"
        assert build["dockerfile"] == f"services/{service}/Dockerfile"
        assert (ROOT / build["dockerfile"]).is_file()
        assert image.inputs["registry"]["server"].endswith(f"/aviary-{stack}-{service}")


def test_a_tag_can_be_given() -> None:
    for image in changed("dev", imagesTag="v1.2.3").all(IMAGE):
        assert image.inputs["imageName"].endswith(":v1.2.3")


def test_without_builds_the_given_images_run_and_no_docker_is_asked() -> None:
    given = {name: f"example.org/{name}@sha256:{'0' * 64}" for name in ("pelican", "emu", "frontend")}
    graph = changed(
        "dev",
        imagesBuild="false",
        imagesPelican=given["pelican"],
        imagesEmu=given["emu"],
        imagesFrontend=given["frontend"],
    )
    assert not graph.all(IMAGE)
    for name, image in given.items():
        task = graph.one("aws:ecs/taskDefinition:TaskDefinition", f"aviary-dev-{name}")
        assert {one["image"] for one in task.json("containerDefinitions")} == {image}
