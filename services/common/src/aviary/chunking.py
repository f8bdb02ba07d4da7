"""How a text longer than the model reads becomes several passages, each with a vector of its own.

Pure: the tokenizer's findings go in, character spans come out. Who decides *whether* a text may need more than one
passage (Pelican, the frontend) has no tokenizer and uses `Chunking.most_of`, which needs only the text's length.
"""

import string
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

MODEL_TOKENS = 254  # all-MiniLM-L6-v2 reads 256, of which two are its marks of beginning and end
FEWEST_TOKENS = 16
# Enough for 20,000 characters of English (some 20 passages) and of any other script. Also bounds what has to be deleted
# of a row.
MOST_CHUNKS = 64

Span = tuple[int, int]

# What ends a sentence, in the scripts that have a sign for it; what may stand between it and the next one.
_ENDS = frozenset(".!?…؟۔।॥։።‽")  # noqa: RUF001 - the signs themselves
_ENDS_WITHOUT_SPACE = frozenset("。！？｡．")  # noqa: RUF001
_CLOSERS = frozenset("\"'”’»)]}」』）")  # noqa: RUF001
_LETTERS = string.ascii_letters.encode()
_SPACES = b" \t\n\r"
_FURTHER_BYTES = bytes(range(0x80, 0xC0))  # all but the first of a character's in UTF-8
_INSIDE, _WORD, _SENTENCE, _PARAGRAPH = range(4)


class Chunking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rule that cuts texts: at most `tokens` tokens a passage, `overlap` of them shared with the one before, at most
    `most` passages a text. It is part of what a text's hash stands for, and travels with every message.

    `most=1` is without chunking: one vector of what the model reads of the beginning.
    """

    tokens: int = MODEL_TOKENS
    overlap: int = 32
    most: int = MOST_CHUNKS

    def __post_init__(self) -> None:
        if self.tokens < FEWEST_TOKENS or self.most < 1:
            raise ValueError(
                f"a chunk has {FEWEST_TOKENS} tokens or more and a text 1 chunk or more, not {self.tokens} and {self.most}"
            )
        if not 0 <= self.overlap <= self.tokens // 4:
            raise ValueError(
                f"an overlap of {self.overlap} tokens does not suit chunks of {self.tokens}; it may be a quarter at most"
            )

    @property
    def advance(self) -> int:
        """Tokens by which each passage begins after the one before, at least."""
        return self.tokens // 2 + 1 - self.overlap

    def most_of(self, text: str) -> int:
        """How many passages `text` may have, guessed on the safe side without a tokenizer; 1: the model reads it at once.

        Words of any language have fewer tokens than is guessed. Only strings of letters that nobody could pronounce may
        have more; what is then beyond the guess is left out.
        """
        if self.most == 1 or len(text) * 3 <= self.tokens:
            return 1
        tokens = _guess_tokens(text)
        return 1 if tokens <= self.tokens else min(self.most, 1 - int((self.tokens - tokens) // self.advance))


class Tokens(NamedTuple):
    """What the tokenizer makes of a text, without its marks of beginning and end: for each token its characters and the
    number of its word. No token is of two words."""

    spans: Sequence[Span]
    words: Sequence[int]


def split(text: str, tokens: Tokens, chunking: Chunking) -> list[Span]:
    """The passages of `text`, in order, as [start, end) in characters.

    Together they are the whole text, unless that would be more than `chunking.most`: then the last ends before the
    text does. Each holds at most `chunking.tokens` tokens; it ends, within its second half, after a paragraph if it can,
    else after a sentence, else after a word. The next begins up to `chunking.overlap` tokens before that, at such a
    place too.
    """
    spans, count = tokens.spans, len(tokens.spans)
    passages: list[Span] = []
    first = 0
    while count - first > chunking.tokens and chunking.most > 1:
        last_possible = first + chunking.tokens
        end = _best(text, tokens, range(last_possible, first + chunking.tokens // 2, -1))
        passages.append((spans[first][0] if passages else 0, spans[end][0]))
        if len(passages) == chunking.most:
            return passages
        first = _best(text, tokens, range(end - chunking.overlap, end + 1))
    passages.append((spans[first][0] if passages else 0, len(text)))
    return passages


def _guess_tokens(text: str) -> float:
    # No token is shorter than a character of the decomposed text, and none is a space. Latin letters are more than one
    # to a token, but every word begins a new one. Random letters need this much, English a third of it.
    content = (text if text.isascii() else unicodedata.normalize("NFD", text)).encode("utf-8", "surrogatepass")
    letters = len(content) - len(content.translate(None, _LETTERS))
    spaces = len(content) - len(content.translate(None, _SPACES))
    others = len(content.translate(None, _LETTERS + _SPACES + _FURTHER_BYTES))
    return 0.6 * letters + 0.4 * spaces + others


def _best(text: str, tokens: Tokens, places: Sequence[int]) -> int:
    """The first of the best borders; a border is the number of the token after it."""
    return max(places, key=lambda place: _rank(text, tokens, place))


def _rank(text: str, tokens: Tokens, place: int) -> int:
    """How good it is to cut before token number `place` (from 1)."""
    before, after = tokens.spans[place - 1][1], tokens.spans[place][0]
    if tokens.words[place - 1] == tokens.words[place]:
        # Several tokens may be of one character.
        return _INSIDE if before <= after else -1
    gap = text[before:after]
    if gap.count("\n") > 1 or "\u2029" in gap:
        return _PARAGRAPH
    if "\n" in gap:
        return _SENTENCE
    while place > 1 and text[before - 1] in _CLOSERS:
        place -= 1
        before = tokens.spans[place - 1][1]
    sign = text[before - 1]
    if sign in _ENDS_WITHOUT_SPACE or (sign in _ENDS and gap and not text[after].islower()):
        return _SENTENCE
    return _WORD
