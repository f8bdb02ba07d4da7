"""Search over the JSON API."""

import threading
from typing import Any

import httpx
import numpy as np
import pytest

from aviary.index import Record
from aviary.source import Document, chunk_id, index_metadata
from tests.services.frontend.site import Site, until

WORDS = ["soup", "hot", "lunch", "flask", "steel", "lamp", "night", "warm", "blanket", "tent", "rain", "seed", "desk"]


def many(site: Site, count: int) -> dict[str, str]:
    """`count` indexed products of random words; their texts by key."""
    chosen = np.random.default_rng(7)
    texts = {}
    for number in range(count):
        name = " ".join(chosen.choice(WORDS, 3, replace=False))
        description = " ".join([*chosen.choice(WORDS, 5), f"number{number}"])
        texts[str(site.insert(name, description))] = f"{name}. {description}"
    site.index_rows()
    return texts


def test_results_come_in_order_of_similarity_with_their_rows(site: Site) -> None:
    texts = many(site, 60)
    found = site.search("hot soup lunch", limit=25)
    query = site.embedder.vector("hot soup lunch")
    similarity = {key: float(site.embedder.vector(text) @ query) for key, text in texts.items()}
    expected = sorted(similarity, key=lambda key: -similarity[key])[:25]
    assert [result["key"] for result in found["results"]] == expected
    assert [result["rank"] for result in found["results"]] == list(range(1, 26))
    for result in found["results"]:
        assert result["score"] == pytest.approx(similarity[result["key"]], abs=1e-4)
        assert f"{result['row']['name']}. {result['row']['description']}" == texts[result["key"]]
    assert found["more"] is True


@pytest.mark.parametrize("mode", ["semantic", "hybrid"])
def test_pages_continue_each_other_in_rank_order(site: Site, mode: str) -> None:
    texts = many(site, 53)
    pages, offset = [], 0
    while True:
        page = site.search("warm night blanket", limit=10, offset=offset, mode=mode)
        pages += page["results"]
        offset += 10
        if not page["more"]:
            break
    assert len(pages) == len({result["key"] for result in pages}) == len(texts)
    assert [result["rank"] for result in pages] == list(range(1, 54))
    scores = [result["score"] for result in pages]
    assert scores == sorted(scores, reverse=True)
    assert [result["key"] for result in pages[:50]] == site.keys("warm night blanket", limit=50, mode=mode)


def test_rows_that_are_gone_are_skipped_and_the_page_stays_full(site: Site) -> None:
    many(site, 60)
    before = site.keys("steel flask", limit=40)
    gone = before[:20]
    site.database.execute("DELETE FROM products WHERE id::text = ANY(%s)", [gone])
    assert site.keys("steel flask", limit=20) == before[20:]


def test_filters_limit_the_results_by_category_and_price(site: Site) -> None:
    cheap = site.insert("soup flask", category="Kitchen", price="9.50")
    dear = site.insert("soup flask steel", category="Kitchen", price="90")
    site.insert("soup flask red", category="Toys", price="9.50")
    site.insert("soup flask free", category="Kitchen", price=None)
    site.index_rows()
    for mode in ("semantic", "hybrid"):
        assert set(site.keys("soup", category="Kitchen", min_price=1, mode=mode)) == {str(cheap), str(dear)}
        assert site.keys("soup", category="Kitchen", max_price=9.5, mode=mode) == [str(cheap)]
        assert site.keys("soup", min_price=50, max_price=100, mode=mode) == [str(dear)]
        assert site.keys("soup", category="kitchen", mode=mode) == []


def test_a_filter_holds_for_the_row_also_when_the_index_is_behind(site: Site) -> None:
    moved = site.insert("soup flask", category="Kitchen", price="9")
    stayed = site.insert("soup jar", category="Kitchen", price="9")
    site.index_rows()
    site.database.execute("UPDATE products SET category = 'Toys' WHERE id = %s", [moved])
    assert site.keys("soup", category="Kitchen") == [str(stayed)]
    assert str(moved) in site.keys("soup")


@pytest.mark.parametrize("query", ["", "   ", "\t\n", "\u3000"])
def test_a_query_without_words_finds_nothing_and_asks_nobody(site: Site, query: str) -> None:
    many(site, 3)
    found = site.search(query)
    assert found["results"] == []
    assert found["more"] is False
    assert site.embedder.calls == []


@pytest.mark.parametrize(
    "query",
    [
        "'; DROP TABLE products; --",
        "1 OR 1=1",
        "%s %(x)s {} {0} \\",
        "🍲 hot soup 👩‍🍳",
        "שלום עולם",
        "مرحبا \u202e txet desrever",
        "<script>alert(1)</script>",
        "!!! & | <-> :* ()",
        "x" * 2_000,
    ],
)
@pytest.mark.parametrize("mode", ["semantic", "hybrid"])
def test_any_text_is_just_text(site: Site, query: str, mode: str) -> None:
    texts = many(site, 3)
    found = site.search(query, mode=mode)
    assert {result["key"] for result in found["results"]} == set(texts)
    assert found["query"] == query


@pytest.mark.parametrize(
    ("parameters", "status", "words"),
    [
        ({"q": "x" * 10_000}, 422, "at most 2,000 characters, and this has 10,000"),
        ({"q": "a\0b"}, 422, "NUL byte"),
        ({"q": "a", "limit": 0}, 422, "limit: must be 1 or more"),
        ({"q": "a", "limit": 101}, 422, "limit: must be 100 or less"),
        ({"q": "a", "limit": "many"}, 422, "limit: input should be a valid integer"),
        ({"q": "a", "offset": -1}, 422, "offset: must be 0 or more"),
        ({"q": "a", "offset": 990, "limit": 20}, 422, "offset + limit may be at most 1,000"),
        ({"q": "a", "offset": 10**30}, 422, "offset"),
        ({"q": "a", "min_price": 5, "max_price": 4}, 422, "min_price: must not be greater than max_price"),
        ({"q": "a", "min_price": "NaN"}, 422, "finite number"),
        ({"q": "a", "max_price": "inf"}, 422, "finite number"),
        ({"q": "a", "mode": "magic"}, 422, "mode"),
        ({"q": "a", "catgory": "Kitchen"}, 422, "catgory: is not a field"),
        ({"q": "a", "category": "a\0b"}, 422, "NUL byte"),
        ({"q": "a", "source": "nowhere"}, 404, "there are: products"),
        ({"q": "a", "source": "a\0b"}, 422, "NUL byte"),
        ({"q": "a", "wait_for": "a\0b"}, 422, "NUL byte"),
        ({"q": "a", "wait_ms": 60_000}, 422, "wait_ms: must be 20,000 or less"),
    ],
)
def test_a_parameter_that_breaks_a_rule_is_named_with_the_rule(
    site: Site, parameters: dict[str, Any], status: int, words: str
) -> None:
    answer = site.client.get("/api/search", params=parameters)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


def test_hybrid_search_finds_the_exact_word_that_meaning_misses(site: Site) -> None:
    # By these vectors "run" and "running" have nothing in common; full text search knows the stem.
    exact = str(site.insert("Shoes", "for running"))
    for number in range(30):
        site.insert(f"Thing number{number}", "of another kind")
    site.index_rows()
    assert site.keys("run", limit=1) != [exact]
    hybrid = site.search("run", limit=3, mode="hybrid")["results"]
    assert hybrid[0]["key"] == exact
    assert 0 < hybrid[0]["score"] <= 1
    assert hybrid[0]["similarity"] is not None


def test_a_search_can_wait_for_an_edit_to_arrive(site: Site) -> None:
    key = str(site.insert("old lamp"))
    site.index_rows()
    site.database.execute("UPDATE products SET name = 'telescope' WHERE id = %s", [int(key)])
    answers: list[dict[str, Any]] = []
    looks = site.server.services.watcher.looks
    waiting = threading.Thread(
        target=lambda: answers.append(site.search("telescope", wait_for=key, wait_ms=15_000)), daemon=True
    )
    waiting.start()
    until(lambda: site.server.services.watcher.looks > looks + 1)
    assert not answers
    site.index_rows()
    waiting.join(15)
    assert answers[0]["waited"] is True
    assert answers[0]["results"][0]["score"] > 0.99
    assert answers[0]["timing"]["waited_ms"] > 0


def test_waiting_for_an_edit_ends_at_its_bound(site: Site) -> None:
    key = str(site.insert("never indexed"))
    found = site.search("never", wait_for=key, wait_ms=50)
    assert found["waited"] is False
    assert found["results"] == []
    assert site.search("never", wait_for="no such key", wait_ms=0)["waited"] is True, "nothing is what it should be"


def test_the_vector_of_a_recent_query_is_kept(site: Site) -> None:
    many(site, 3)
    first = site.keys("hot soup")
    assert site.keys("  hot \n soup ") == first
    assert len(site.embedder.calls) <= 1


def test_long_texts_are_cut_in_results_and_say_so(site: Site) -> None:
    key = site.insert("soup", "word " * 200_000)
    site.index_rows()
    result = site.search("soup")["results"][0]
    assert result["cut"] == ["description"]
    assert len(result["row"]["description"]) == 2_000
    assert len(site.client.get(f"/api/products/{key}").json()["description"]) == 1_000_000


def test_an_answer_says_where_the_time_went(site: Site) -> None:
    many(site, 3)
    answer = site.client.get("/api/search", params={"q": "hot soup"})
    timing = answer.json()["timing"]
    assert timing["total_ms"] == pytest.approx(timing["embed_ms"] + timing["index_ms"] + timing["rows_ms"], abs=0.05)
    assert timing["index_ms"] > 0
    assert answer.headers["Server-Timing"].startswith("embed;dur=")


def test_a_vector_without_a_key_or_with_a_key_of_another_type_is_passed_over(site: Site) -> None:
    key = str(site.insert("soup"))
    site.index_rows()
    stray = site.index.fetch("products", [key])[key]
    site.index.upsert("products", [stray._replace(id="a", metadata={"name": "no key"})])
    site.index.upsert("products", [stray._replace(id="b", metadata={"_key": "twelve"})])
    site.index.upsert("products", [stray._replace(id="c", metadata={"_key": "99999999999999999999999"})])
    site.index.upsert("products", [stray._replace(id="99999999999999999999999")])
    assert site.keys("soup") == [key]
    # A hash for an id says no key, so that metadata is looked at.
    site.index.upsert("products", [stray._replace(id="~d", metadata={"name": "no key"})])
    assert site.keys("soup") == [key]


ARTICLES = """
CREATE TABLE public."odd ""Articles"" %" (
  "the Year" integer, slug text, title text NOT NULL, body text, author text, secret text,
  PRIMARY KEY ("the Year", slug));
INSERT INTO public."odd ""Articles"" %" VALUES
  (2024, 'a"b', 'Soup at sea', 'hot and salty', 'Ann', 'hidden'),
  (2025, 'ü/ö', 'Lamps', 'light at night', 'Bob', 'hidden'),
  (2025, '', 'Empty slug', 'soup', NULL, 'hidden');
"""


def test_rows_of_any_watched_table_are_found_by_their_composite_key(site: Site) -> None:
    site.database.execute(ARTICLES)
    site.database.execute(
        """SELECT sync.watch('public."odd ""Articles"" %"', 'articles', ARRAY['the Year', 'slug'],
                  ARRAY['title', 'body'], E'{title}\n{body}', ARRAY['author'])"""
    )
    site.server.services.database.forget()
    site.index_rows("articles")
    for mode in ("semantic", "hybrid"):
        found = site.search("hot soup at sea", source="articles", mode=mode)["results"]
        assert found[0]["key"] == '["2024", "a\\"b"]'
        row = {"the Year": 2024, "slug": 'a"b', "title": "Soup at sea", "body": "hot and salty", "author": "Ann"}
        assert found[0]["row"] == row, "the mapped columns, and no other"
        assert len(found) == 3
    assert site.client.get("/api/search", params={"q": "a", "source": "articles", "category": "x"}).status_code == 422
    page = site.client.get("/results", params={"q": "hot soup at sea", "source": "articles"}).text
    assert "Soup at sea" in page
    assert "/edit" not in page, "other tables are searched only"


def test_concurrent_searches_all_get_their_own_answer(site: Site) -> None:
    keys = {word: str(site.insert(word)) for word in WORDS}
    site.index_rows()
    wrong: list[str] = []

    def ask(word: str) -> None:
        with httpx.Client(base_url=site.server.url) as client:
            for _ in range(4):
                best = client.get("/api/search", params={"q": word}).json()["results"][0]
                wrong.extend([word] if best["key"] != keys[word] else [])

    threads = [threading.Thread(target=ask, args=(word,)) for word in WORDS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong


def index_passages(site: Site, passages: dict[str, list[str]]) -> None:
    """The vectors of rows, one a passage, as Emu writes them."""
    records = []
    for key, texts in passages.items():
        for number, text in enumerate(texts):
            document = Document(key=key, text=text, text_hash="-", metadata={})
            metadata = index_metadata(document, 1, number, len(texts))
            records.append(Record(chunk_id(key, number), site.embedder.vector(text), metadata))
    site.index.upsert("products", records)


def test_a_row_is_found_once_by_the_best_of_its_passages(site: Site) -> None:
    rows = [str(site.insert(name)) for name in ("lamp", "tent", "desk")]
    index_passages(site, {rows[0]: ["steel", "seed", "hot soup"], rows[1]: ["hot"], rows[2]: ["hot soup lunch", "hot"]})
    found = site.search("hot soup")["results"]
    assert [result["key"] for result in found] == [rows[0], rows[2], rows[1]]
    assert found[0]["score"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("mode", ["semantic", "hybrid"])
def test_pages_of_rows_with_many_passages_continue_each_other_without_a_row_twice(site: Site, mode: str) -> None:
    chosen = np.random.default_rng(3)
    passages = {
        str(site.insert(f"Thing number{number}")): [
            " ".join([*chosen.choice(WORDS, 3), "hot", f"number{number}"]) for _ in range(1 + number % 9 * 4)
        ]
        for number in range(45)
    }
    index_passages(site, passages)
    query = site.embedder.vector("hot soup lunch")
    best = {key: max(float(site.embedder.vector(text) @ query) for text in texts) for key, texts in passages.items()}
    pages = [
        site.search("hot soup lunch", limit=10, offset=offset, mode=mode, similar="each") for offset in range(0, 50, 10)
    ]
    keys = [result["key"] for page in pages for result in page["results"]]
    assert [len(page["results"]) for page in pages] == [10, 10, 10, 10, 5]
    assert len(set(keys)) == 45
    if mode == "semantic":
        assert keys == sorted(best, key=lambda key: -best[key])
        assert [page["more"] for page in pages] == [True] * 4 + [False]
    whole = site.search("hot soup lunch", limit=50, mode=mode, similar="each")["results"]
    assert [result["key"] for result in whole] == keys


def test_a_row_has_arrived_by_its_main_vector_though_others_of_it_are_as_near(site: Site) -> None:
    key = str(site.insert("tent"))
    site.index_rows()
    main = site.index.fetch("products", [key])[key]
    site.index.delete("products", [key])
    others = [
        Record(chunk_id(key, number), main.values, main.metadata | {"_chunk": number, "_text_hash": "other"})
        for number in range(1, 4)
    ]
    site.index.upsert("products", [*others, main])
    assert site.search("tent", wait_for=key, wait_ms=0)["waited"] is True
    site.index.delete("products", [key])
    assert site.search("tent", wait_for=key, wait_ms=0)["waited"] is False
