"""Rows that say nearly the same: a shop's seven colours of one thing would else fill a page of results by themselves.

Judged by the words of the indexed text and nothing else, so it works for any table and costs no second question to the
index. Measured on the catalogue (`python -m benchmarks.search_quality`): at half of the words in common no row was put
under one that is another kind of thing.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

# Share of the words of two texts together that stand in both (Jaccard index), from which on they count as alike.
ALIKE_SHARE = 0.5
# Of fewer words the share says little: "Invoice 17" and "Invoice 18" are different things.
FEWEST_WORDS = 8

# Some 4 KB each. The rows that people find are found again and again.
KEPT_TEXTS = 4_096

# So many that few of a text's words share a bit.
SKETCH_BITS = 1_024

_WORD = re.compile(r"\w+")


class Words(NamedTuple):
    """The different words of a text, in lower case. `sketch` has the bit of each; `crowded` is how many words have no bit
    for themselves. So two texts have at most as many words in common as bits, and `crowded` of either more."""

    all: frozenset[int]  # of each word the hash
    sketch: int
    crowded: int


@lru_cache(maxsize=KEPT_TEXTS)
def words(text: str) -> Words:
    """Of any text."""
    # Hashes stand for the words: no two of a text are the same by chance, and they take less room than strings.
    found = frozenset(map(hash, _WORD.findall(text.lower())))
    sketch = 0
    for word in found:
        sketch |= 1 << word % SKETCH_BITS
    return Words(found, sketch, len(found) - sketch.bit_count())


def alike(one: Words, other: Words) -> bool:
    """Whether two texts, given by their words, say nearly the same."""
    mine, mine_sketch, crowded = one
    theirs, their_sketch, _ = other
    both = len(mine) + len(theirs)
    # Most pairs end here: a search compares hundreds, and counting bits is ten times as fast as looking words up.
    if (1 + ALIKE_SHARE) * ((mine_sketch & their_sketch).bit_count() + crowded) < ALIKE_SHARE * both:
        return False
    common = len(mine & theirs)
    return min(len(mine), len(theirs)) >= FEWEST_WORDS and common >= ALIKE_SHARE * (both - common)


def group(keys: Sequence[str], texts: Mapping[str, str], most: int = sys.maxsize) -> dict[str, list[str]]:
    """Each key that leads a group, in the order of `keys`, with the keys that are alike and come later; the first `most`
    groups.

    A key joins the first leader that it is like. Leaders depend on what stands before them only, so more keys at the end
    change no earlier page, and groups after the last that is wanted need not be known.
    """
    groups: dict[str, list[str]] = {}
    led: dict[str, Words] = {}
    for key in keys:
        mine = words(texts[key])
        for leader, theirs in led.items():
            if alike(mine, theirs):
                groups[leader].append(key)
                break
        else:
            if len(led) < most:
                led[key] = mine
                groups[key] = []
    return groups
