"""Putting rankings together: pure arithmetic, no input or output."""

from collections.abc import Sequence

# The constant of the paper: large enough that the first rank of one list does not beat two good ranks.
RRF_K = 60


def rrf(rankings: Sequence[Sequence[str]], k: int = RRF_K) -> list[tuple[str, float]]:
    """Reciprocal rank fusion of rankings, best first each; the fused order with scores, best first.

    The score is the sum of 1 / (k + rank) over the lists that hold the key, divided by its greatest possible value,
    so that 1.0 means first in every list. Ties go to the better rank in the earlier list, then to the key, so that
    one input has one order. A key twice in a list counts once, at its better rank.

    Cormack, Clarke, Büttcher: Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods
    (SIGIR 2009), https://plg.uwaterloo.ca/~gvcormac/cormacksigir09-rrf.pdf
    """
    if not rankings:
        return []
    ranks: dict[str, list[float]] = {}
    for position, ranking in enumerate(rankings):
        for rank, key in enumerate(ranking, start=1):
            held = ranks.setdefault(key, [float("inf")] * len(rankings))
            held[position] = min(held[position], rank)
    greatest = len(rankings) / (k + 1)
    scored = [(key, sum(1 / (k + rank) for rank in held) / greatest) for key, held in ranks.items()]
    return sorted(scored, key=lambda item: (-item[1], ranks[item[0]], item[0]))
