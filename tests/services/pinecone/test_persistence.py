"""What the log promises, in one process: whole records come back, torn ones are dropped, damage is told."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from local.pinecone import store as stores
from local.pinecone.operations import Configuration, CreateNamespace, Delete, DeleteNamespace, Update, Upsert
from local.pinecone.store import Index, Store, StoreError
from tests.services.pinecone.samples import unit_vectors

DIMENSION = 8


class Reopen(Protocol):
    """Open the same folder again, whatever became of the store before."""

    def __call__(self, *, visibility_delay_seconds: float = 0.0, fsync: bool = False) -> Store: ...


def configuration(name: str = "ix") -> Configuration:
    return Configuration(name=name, dimension=DIMENSION, metric="cosine", deployment={"deployment_type": "managed"})


def upsert(first: int, count: int, namespace: str = "p", seed: int = 0) -> Upsert:
    return Upsert(
        namespace=namespace,
        ids=[f"k{i}" for i in range(first, first + count)],
        metadata=[{"n": float(i), "seed": float(seed)} for i in range(first, first + count)],
        values=unit_vectors(count, seed=seed, dimension=DIMENSION).tobytes(),
    )


def contents(index: Index) -> dict[str, Any]:
    """Everything that is visible, comparable."""
    found: dict[str, Any] = {}
    for name, namespace in index.namespaces().items():
        ids, _ = namespace.page("", None, 100_000)
        rows = [(each, namespace.row(each)) for each in ids]
        found[name] = (
            namespace.schema,
            {each: (namespace.values(row).tobytes(), namespace.metadata(row)) for each, row in rows if row is not None},
        )
    return found


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Reopen]:
    opened: list[Store] = []

    def again(*, visibility_delay_seconds: float = 0.0, fsync: bool = False) -> Store:
        for store in opened:
            store.close()
        opened[:] = [Store(tmp_path / "data", visibility_delay_seconds=visibility_delay_seconds, fsync=fsync)]
        return opened[0]

    yield again
    for store in opened:
        store.close()


def write_of_each_kind(index: Index) -> None:
    index.write(upsert(0, 30))
    index.write(upsert(5, 3, seed=1))
    index.write(Update(namespace="p", id="k1", set_metadata={"merged": True}))
    index.write(Update(namespace="p", id="k2", values=unit_vectors(1, seed=2, dimension=DIMENSION).tobytes()))
    index.write(Update(namespace="p", filter={"n": {"$gt": 25}}, set_metadata={"late": "yes"}))
    index.write(Delete(namespace="p", ids=["k7", "absent"]))
    index.write(Delete(namespace="p", filter={"n": 8}))
    index.write(CreateNamespace(namespace="made", schema={"fields": {"g": {"filterable": True}}}))
    index.write(upsert(0, 2, namespace="emptied"))
    index.write(Delete(namespace="emptied"))
    index.write(upsert(0, 2, namespace="dropped"))
    index.write(DeleteNamespace(namespace="dropped"))


def test_every_kind_of_write_comes_back(reopen: Reopen) -> None:
    index = reopen().create(configuration())
    write_of_each_kind(index)
    before = contents(index)
    assert set(before) == {"p", "made", "emptied"}
    assert len(before["p"][1]) == 28
    for _ in range(2):  # the second time from the snapshot that the first one wrote
        assert contents(reopen().indexes["ix"]) == before


def test_sequence_numbers_go_on_after_a_restart(reopen: Reopen) -> None:
    index = reopen().create(configuration())
    last = [index.write(upsert(i, 1)) for i in range(5)][-1]
    for _ in range(2):
        again = reopen().indexes["ix"]
        assert again.indexed_lsn("p") == last
    assert again.write(upsert(9, 1)) == last + 1


def test_what_was_held_back_is_kept_and_seen_after_a_restart(reopen: Reopen) -> None:
    index = reopen(visibility_delay_seconds=3600).create(configuration())
    index.write(upsert(0, 3))
    index.compact()
    last = index.write(upsert(3, 1))
    assert contents(index) == {}
    again = reopen().indexes["ix"]
    assert len(contents(again)["p"][1]) == 4
    assert again.indexed_lsn("p") == last


def test_a_configuration_comes_back_as_it_was_last(reopen: Reopen) -> None:
    index = reopen().create(configuration())
    index.write(upsert(0, 1))
    changed = configuration()
    changed.tags, changed.deletion_protection = {"a": "b"}, "enabled"
    index.configure(changed)
    for _ in range(2):
        again = reopen().indexes["ix"].configuration
        assert (again.tags, again.deletion_protection) == ({"a": "b"}, "enabled")


def test_a_deleted_index_stays_deleted_and_its_name_can_be_taken_again(reopen: Reopen) -> None:
    store = reopen()
    store.create(configuration()).write(upsert(0, 5))
    store.delete("ix")
    store = reopen()
    assert store.indexes == {}
    assert contents(store.create(configuration())) == {}
    assert contents(reopen().indexes["ix"]) == {}


def test_a_record_torn_at_any_byte_is_dropped_and_only_that_one(reopen: Reopen, tmp_path: Path) -> None:
    store = reopen()
    index = store.create(configuration())
    path = tmp_path / "data" / "ix.log"
    index.write(upsert(0, 2))
    kept, whole = contents(index), path.stat().st_size
    index.write(upsert(2, 1))
    full = path.read_bytes()
    store.close()
    for length in range(whole, len(full)):
        folder = tmp_path / f"torn-{length}"
        shutil.copytree(tmp_path / "data", folder)
        (folder / "ix.log").write_bytes(full[:length])
        torn = Store(folder)
        assert contents(torn.indexes["ix"]) == kept, length
        torn.indexes["ix"].write(upsert(5, 1))
        torn.close()
        again = Store(folder)
        assert len(contents(again.indexes["ix"])["p"][1]) == 3
        again.close()
    reopen()


def test_a_torn_record_is_said_in_the_log(reopen: Reopen, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reopen().create(configuration()).write(upsert(0, 2))
    path = tmp_path / "data" / "ix.log"
    os.truncate(path, path.stat().st_size - 1)
    reopen()
    said = [record for record in caplog.records if record.getMessage() == "torn_record_dropped"]
    assert len(said) == 1
    assert said[0].fields["index"] == "ix"  # type: ignore[attr-defined] # our logs put their fields there


def test_damage_in_the_middle_is_refused_and_not_guessed_at(reopen: Reopen, tmp_path: Path) -> None:
    store = reopen()
    index = store.create(configuration())
    for i in range(3):
        index.write(upsert(i, 1))
    store.close()
    path = tmp_path / "data" / "ix.log"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"ix\.log is damaged at byte \d+ of \d+; restore it, or move it away"):
        Store(tmp_path / "data")
    assert path.read_bytes() == damaged
    path.unlink()
    assert reopen().indexes == {}


def test_a_file_that_is_no_log_is_refused(reopen: Reopen, tmp_path: Path) -> None:
    reopen().close()
    for content in (b"", b"hello", b"x" * 1000):
        (tmp_path / "data" / "other.log").write_bytes(content)
        with pytest.raises(StoreError, match=r"other\.log .*move it away"):
            Store(tmp_path / "data")
    (tmp_path / "data" / "other.log").unlink()
    reopen()


def test_a_file_that_was_being_made_is_removed(reopen: Reopen, tmp_path: Path) -> None:
    reopen().create(configuration()).write(upsert(0, 2))
    (tmp_path / "data" / "ix.new").write_bytes(b"half a snapsh")
    assert len(contents(reopen().indexes["ix"])["p"][1]) == 2
    assert not (tmp_path / "data" / "ix.new").exists()


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("Dear")
    with pytest.raises(StoreError, match="is not empty and holds no index data"):
        Store(tmp_path / "letters")
    assert [entry.name for entry in (tmp_path / "letters").iterdir()] == ["dear.txt"]


def test_a_folder_of_a_future_format_is_refused(reopen: Reopen, tmp_path: Path) -> None:
    reopen().close()
    (tmp_path / "data" / "format").write_text("aviary-pinecone-stand-in 2\n")
    with pytest.raises(StoreError, match="another format"):
        Store(tmp_path / "data")
    (tmp_path / "data" / "format").write_text(stores.FORMAT)
    reopen()


def test_a_second_opening_is_refused_with_the_number_of_the_first_process(reopen: Reopen, tmp_path: Path) -> None:
    reopen()
    with pytest.raises(StoreError, match=f"is in use by process {os.getpid()};"):
        Store(tmp_path / "data")


def test_the_log_is_written_anew_when_it_has_grown_and_holds_the_same(
    reopen: Reopen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "COMPACT_AT_LEAST_BYTES", 50_000)
    index = reopen().create(configuration())
    path, largest = tmp_path / "data" / "ix.log", 0
    for i in range(400):
        index.write(upsert(i % 20, 10, seed=i))
        largest = max(largest, path.stat().st_size)
    assert largest < 60_000
    assert contents(reopen().indexes["ix"]) == contents(index)


def test_the_old_log_stays_when_a_new_one_cannot_be_written(
    reopen: Reopen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = reopen().create(configuration())
    index.write(upsert(0, 5))
    before = contents(index)

    def no_room(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        index.compact()
    assert list((tmp_path / "data").glob("*.new")) == []
    index.write(upsert(5, 1))
    assert contents(reopen().indexes["ix"]) == before | {"p": (None, before["p"][1] | contents(index)["p"][1])}


def test_with_fsync_a_write_is_on_the_disk_before_it_is_answered(
    reopen: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    for fsync in (False, True):
        store = reopen(fsync=fsync)
        index = store.indexes.get("ix") or store.create(configuration())
        calls.clear()
        index.write(upsert(0, 1))
        assert len(calls) == int(fsync)


def test_large_records_fit_a_snapshot(reopen: Reopen) -> None:
    wide = configuration()
    wide.dimension = 20_000
    index = reopen().create(wide)
    values = np.ones((80, 20_000), np.float32)
    for start in range(0, 80, 20):
        ids = [f"k{i}" for i in range(start, start + 20)]
        metadata = [{"t": "x" * 40_000}] * 20
        index.write(Upsert(namespace="p", ids=ids, metadata=metadata, values=values[:20].tobytes()))
    for _ in range(2):
        assert len(contents(reopen().indexes["ix"])["p"][1]) == 80


def test_the_marker_of_the_folder_is_readable(reopen: Reopen, tmp_path: Path) -> None:
    reopen()
    assert (tmp_path / "data" / "format").read_text() == stores.FORMAT
    assert int(json.loads((tmp_path / "data" / "lock").read_text())) == os.getpid()
