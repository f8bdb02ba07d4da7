"""Rows that say nearly the same: a shop's seven colours of one thing would else fill a page of results by themselves.

Judged by the words of the indexed text and nothing else, so it works for any table and costs no second question to the
index. Measured on the catalogue (`python -m benchmarks.search_quality`): at half of the words in common no row was put
under one that is another kind of thing.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

# Share of the words of two texts together that stand in both (Jaccard index), from which on they count as alike.
ALIKE_SHARE = 0.5
# Of fewer words the share says little: "Invoice 17" and "Invoice 18" are different things.
FEWEST_WORDS = 8

# Some 5 KB each. The rows that people find are found again and again.
KEPT_TEXTS = 2_048

_WORD = re.compile(r"\w+")


@lru_cache(maxsize=KEPT_TEXTS)
def words(text: str) -> frozenset[str]:
    """The different words of a text, in lower case."""
    return frozenset(_WORD.findall(text.lower()))


def alike(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two texts, given by their words, say nearly the same."""
    smaller, larger = len(one), len(other)
    if smaller > larger:
        smaller, larger = larger, smaller
    if smaller < FEWEST_WORDS or smaller < ALIKE_SHARE * larger:
        return False
    common = len(one & other)
    return common >= ALIKE_SHARE * (smaller + larger - common)


def group(keys: Sequence[str], texts: Mapping[str, str]) -> dict[str, list[str]]:
    """Each key that leads a group, in the order of `keys`, with the keys that are alike and come later.

    A key joins the first leader that it is like. Leaders depend on what stands before them only, so more keys at the end
    change no earlier page.
    """
    groups: dict[str, list[str]] = {}
    led: dict[str, frozenset[str]] = {}
    for key in keys:
        mine = words(texts[key])
        leader = next((other for other, theirs in led.items() if alike(mine, theirs)), None)
        if leader is None:
            led[key] = mine
            groups[key] = []
        else:
            groups[leader].append(key)
    return groups
