"""Long texts to passages: pure, and held to the real tokenizer."""

import random
import string
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aviary.chunking import MOST_CHUNKS, Chunking, Tokens, split
from aviary.embedder import Embedder
from aviary.source import TEXT_LIMIT_CHARS, chunk_id, key_of, split_chunk_id, text_hash, vector_id

SENTENCE = "The kettle boils water in three minutes, and turns itself off. "
SMALL = Chunking(tokens=16, overlap=4)
# Words as people write them, and what no tokenizer likes.
PIECES = st.sampled_from(
    ["kettle", "Wasserkocher", "شاي ساخن.", "日本語の文章。", "한국어", "👩‍👩‍👧", "e\u0301", "\u0301", "x" * 120, "12.5", "!?", "…", ") ", "[SEP]",
     "\ud800", "\0", "\u200b", "\n\n", "\n", "\u2029", "\t", " ", ". ", ", "]
)  # fmt: skip
TEXTS = st.lists(PIECES, min_size=1, max_size=60).map("".join)


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder("f32", threads=1)


def passages(embedder: Embedder, text: str, chunking: Chunking) -> list[str]:
    return [text[start:end] for start, end in split(text, embedder.tokens([text])[0], chunking)]


@given(TEXTS, st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_passages_are_the_whole_text_in_order_and_each_is_read_whole_by_the_model(
    embedder: Embedder, text: str, times: int
) -> None:
    text = (text * times)[:TEXT_LIMIT_CHARS]
    chunking = Chunking()
    spans = split(text, embedder.tokens([text])[0], chunking)
    assert spans == split(text, embedder.tokens([text])[0], chunking)
    assert len(spans) <= chunking.most_of(text)
    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)
    for (start, end), (following, until) in pairwise(spans):
        assert start < following <= end < until, "each goes on where the one before ended, or earlier"
    parts = embedder.tokens([text[start:end] for start, end in spans])
    assert max(len(part.spans) for part in parts) <= chunking.tokens


@given(TEXTS)
@settings(max_examples=100, deadline=None)
def test_a_text_that_length_alone_says_is_short_has_no_more_tokens_than_that(embedder: Embedder, text: str) -> None:
    tokens = len(embedder.tokens([text])[0].spans)
    if tokens > 16:
        assert SMALL.most_of(text) > 1
    assert len(passages(embedder, text, SMALL)) <= SMALL.most_of(text)


@pytest.mark.parametrize(
    "text", ["한" * 90, "ﷺ" * 255, "ṩ" * 255, "Ǆ" * 255, "İ" * 255, "½" * 255, "字" * 255, "\U0001f426" * 255]
)
def test_no_character_is_worth_more_tokens_than_it_is_counted_for(embedder: Embedder, text: str) -> None:
    assert len(embedder.tokens([text])[0].spans) <= 254 or Chunking().most_of(text) > 1


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(SENTENCE * 400, id="English"),
        pytest.param("水を沸かすやかんです。" * 2_000, id="Japanese"),
        pytest.param("물을 끓이는 주전자입니다. " * 2_000, id="Korean"),
        pytest.param("إبريق لغلي الماء في ثلاث دقائق. " * 1_000, id="Arabic"),
    ],
)
def test_passages_end_and_begin_with_sentences(embedder: Embedder, text: str) -> None:
    text = text[:TEXT_LIMIT_CHARS]
    text = text[: max(text.rfind(". "), text.rfind("。")) + 1]
    sentences = text.replace("。", "。\0").replace(". ", ". \0").split("\0")
    found = passages(embedder, text, Chunking())
    assert len(found) > 3
    assert all(passage.strip()[-1] in ".。" for passage in found)
    starts = {sentence.strip() for sentence in sentences if sentence.strip()}
    assert all(any(passage.startswith(sentence) for sentence in starts) for passage in found)


def test_a_paragraph_is_a_better_end_than_a_later_sentence(embedder: Embedder) -> None:
    text = SENTENCE * 10 + "\n\n" + SENTENCE * 20
    assert passages(embedder, text, Chunking())[0] == SENTENCE * 10 + "\n\n"


def test_neighbours_share_as_much_as_they_may_from_the_beginning_of_a_sentence(embedder: Embedder) -> None:
    first, second, *_ = passages(embedder, SENTENCE * 100, Chunking())
    assert first.endswith(SENTENCE * 2)
    assert second.startswith(SENTENCE * 2)
    spans = split(SENTENCE * 100, embedder.tokens([SENTENCE * 100])[0], Chunking(overlap=0))
    assert all(end == following for (_, end), (following, _) in pairwise(spans))


def test_a_text_of_20_000_characters_of_english_is_embedded_whole(embedder: Embedder) -> None:
    text = (SENTENCE * 400)[:TEXT_LIMIT_CHARS]
    found = split(text, embedder.tokens([text])[0], Chunking())
    assert found[-1][1] == len(text)
    assert len(found) < MOST_CHUNKS / 2


def test_a_text_beyond_the_most_passages_ends_early(embedder: Embedder) -> None:
    found = passages(embedder, SENTENCE * 100, Chunking(most=3))
    assert len(found) == 3
    assert passages(embedder, SENTENCE * 100, Chunking(most=64))[:3] == found
    assert passages(embedder, SENTENCE * 100, Chunking(most=1)) == [SENTENCE * 100], "the model cuts it itself"


def test_a_word_is_cut_only_when_there_is_no_other_place() -> None:
    tokens = Tokens([(n, n + 1) for n in range(40)], [n // 10 for n in range(40)])
    assert [span[0] for span in split("x" * 40, tokens, SMALL)] == [0, 10, 20, 30]
    one_word = tokens._replace(words=[0] * 40)
    assert split("x" * 40, one_word, SMALL) == [(0, 16), (12, 28), (24, 40)]


def test_the_tokenizer_reads_texts_whole_and_the_model_their_beginning(embedder: Embedder) -> None:
    text = "word " * 1_000
    assert len(embedder.tokens([text])[0].spans) == 1_000
    assert embedder.count_tokens([text]) == [256]
    beginning = "word " * 254
    assert (embedder.embed([text]) == embedder.embed([beginning])).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [({"tokens": 8}, "16 tokens or more"), ({"most": 0}, "1 chunk or more"), ({"overlap": 64}, "a quarter at most")],
)
def test_a_rule_that_cannot_work_is_refused(given: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Chunking(**given)


def test_a_hash_stands_for_the_rule_where_it_may_matter_and_only_there() -> None:
    short, long = SENTENCE, SENTENCE * 50
    rules = [Chunking(), Chunking(tokens=200), Chunking(overlap=8), Chunking(most=5), Chunking(most=1)]
    assert len({text_hash(long, chunking=rule) for rule in rules}) == len(rules)
    assert len({text_hash(short, chunking=rule) for rule in rules}) == 1


@given(st.text(min_size=1), st.integers(0, MOST_CHUNKS))
def test_the_id_of_a_vector_says_whose_and_which_it_is(key: str, number: int) -> None:
    main = vector_id(key.encode("utf-8", "replace").decode())
    assert split_chunk_id(chunk_id(main, number)) == (main, number)
    assert key_of(chunk_id(main, number)) == (None if main.startswith("~") else main)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(lambda letters: letters.choice(string.ascii_lowercase), id="letters"),
        pytest.param(lambda letters: "".join(letters.choices(string.ascii_lowercase, k=2)), id="pairs"),
        pytest.param(lambda letters: "".join(letters.choices(string.ascii_letters, k=8)), id="random words"),
        pytest.param(lambda letters: letters.randbytes(12).hex(), id="hexadecimal"),
        pytest.param(lambda letters: f"{letters.choice(['XL', 'USB', 'BPA'])}-{letters.randrange(10**6)}", id="parts"),
    ],
)
def test_even_random_letters_are_not_guessed_to_be_short(
    embedder: Embedder, words: Callable[[random.Random], str]
) -> None:
    letters = random.Random(7)
    for count in (100, 200, 400, 800):
        text = " ".join(words(letters) for _ in range(count))
        tokens = len(embedder.tokens([text])[0].spans)
        assert tokens <= 254 or Chunking().most_of(text) >= len(split(text, embedder.tokens([text])[0], Chunking()))


def test_a_description_of_400_characters_is_known_to_be_short() -> None:
    assert Chunking().most_of((SENTENCE * 10)[:400]) == 1


@pytest.mark.parametrize("given", ["#1", "a#", "a#x", "a#01", "a#0", "a#\u0661", "a"])
def test_an_id_that_is_no_chunks_is_taken_for_a_main_one(given: str) -> None:
    assert split_chunk_id(given) == (given, 0)
