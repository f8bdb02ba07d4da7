"""Rows that say nearly the same stand under the best of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.alike import ALIKE_SHARE, FEWEST_WORDS, alike, group, words
from tests.services.frontend.html import Page
from tests.services.frontend.site import Site

FLASK = "Keeps soup hot until lunch, steel inside and out, with a cup for a lid, half a litre, "
TEXTS = st.lists(
    st.lists(st.sampled_from([f"w{n}" for n in range(14)]), min_size=1, max_size=14).map(" ".join), max_size=25
)


def test_half_of_the_words_in_common_make_texts_alike() -> None:
    assert alike(words(FLASK + "red"), words(FLASK.upper() + "blue"))
    assert not alike(words(FLASK), words("A tent that stands up by itself in the time soup takes to boil, for two"))


def test_few_words_are_never_alike() -> None:
    assert not alike(words("Invoice 17 of May"), words("Invoice 18 of May"))
    assert not alike(words(""), words(""))


@given(st.sets(st.integers(0, 20), min_size=6), st.sets(st.integers(0, 20), min_size=6), st.integers(1, 200))
def test_the_words_decide_and_not_the_bits_that_spare_comparing_them(one: set[int], other: set[int], bits: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("frontend.alike.SKETCH_BITS", bits)
        first, second = (words.__wrapped__(" ".join(f"w{n}" for n in numbers)) for numbers in (one, other))
    share = len(one & other) / len(one | other)
    assert alike(first, second) == (share >= ALIKE_SHARE and min(len(one), len(other)) >= FEWEST_WORDS)


@given(TEXTS)
def test_every_row_stands_in_one_place_in_rank_order(texts: list[str]) -> None:
    keys = [str(number) for number in range(len(texts))]
    groups = group(keys, dict(zip(keys, texts, strict=True)))
    assert sorted([*groups, *(key for others in groups.values() for key in others)], key=int) == keys
    assert list(groups) == sorted(groups, key=int)
    for leader, others in groups.items():
        assert others == sorted(others, key=int)
        assert all(int(leader) < int(other) for other in others)


@given(TEXTS, st.integers(0, 25))
def test_looking_deeper_changes_no_earlier_result(texts: list[str], depth: int) -> None:
    keys = [str(number) for number in range(len(texts))]
    text_of = dict(zip(keys, texts, strict=True))
    shallow, deep = list(group(keys[:depth], text_of)), list(group(keys, text_of))
    assert deep[: len(shallow)] == shallow


@given(TEXTS, st.integers(1, 25))
def test_to_want_fewer_groups_changes_none_of_them(texts: list[str], most: int) -> None:
    keys = [str(number) for number in range(len(texts))]
    text_of = dict(zip(keys, texts, strict=True))
    assert list(group(keys, text_of, most).items()) == list(group(keys, text_of).items())[:most]


def variants(site: Site) -> list[str]:
    """Keys of four flasks that differ in a word, and of a tent."""
    keys = [str(site.insert(f"flask {colour}", FLASK + colour)) for colour in ("red", "green", "blue", "black")]
    keys.append(str(site.insert("tent", "Stands up by itself in the rain, for two people and one very patient dog")))
    site.index_rows()
    return keys


def test_variants_are_one_result_that_names_the_others(site: Site) -> None:
    *flasks, tent = variants(site)
    found = site.search("soup hot until lunch steel flask red", similar="group")["results"]
    assert [result["key"] for result in found] == [flasks[0], tent]
    assert [result["rank"] for result in found] == [1, 2]
    similar = found[0]["similar"]
    assert {row["key"] for row in similar} == set(flasks[1:])
    scores = [found[0]["score"], *(row["score"] for row in similar)]
    assert scores == sorted(scores, reverse=True)
    each = site.search("soup hot until lunch steel flask red", similar="each")["results"]
    assert each[0]["key"] == flasks[0]
    assert len(each) == 5
    assert all(result["similar"] == [] for result in each)


def test_putting_together_is_what_a_search_does_unless_told_otherwise(site: Site) -> None:
    variants(site)
    answer = site.client.get("/api/search", params={"q": "soup lunch flask"}).json()
    assert len(answer["results"]) == 2


def test_pages_of_grouped_results_continue_each_other(site: Site) -> None:
    for kind in range(12):
        own = " ".join(f"kind{kind}word{n}" for n in range(9))
        for colour in ("red", "green", "blue"):
            site.insert(f"thing {colour}", own)
    site.index_rows()
    pages = [site.search("thing red", similar="group", limit=5, offset=offset) for offset in (0, 5, 10)]
    keys = [result["key"] for page in pages for result in page["results"]]
    assert len(keys) == len(set(keys)) == 12
    assert [result["rank"] for page in pages for result in page["results"]] == list(range(1, 13))
    assert [page["more"] for page in pages] == [True, True, False]
    whole = site.search("thing red", similar="group", limit=100)["results"]
    assert [result["key"] for result in whole] == keys
    assert sum(len(result["similar"]) for result in whole) == 24


def test_the_page_shows_what_stands_under_a_result(site: Site) -> None:
    keys = variants(site)
    page = Page(site.client.get("/", params={"q": "soup hot until lunch steel flask red"}))
    assert page.texts("summary") == ["3 more like this"]
    addresses = {link.attributes["href"] for link in page.all("a") if "/products/" in link.attributes.get("href", "")}
    assert addresses == {f"/products/{key}" for key in keys}
