"""How texts of many lengths become few, well-filled inferences. Pure arithmetic over token counts.

Texts are packed into rows, rows into batches. Every shape (rows by width) that the CPU plugin meets for the first time
costs it 10 to 100 ms and up to 2 MB for good, so that shapes are few on purpose: widths are multiples of
`WIDTH_STEP`, and a batch has a power of two of rows.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aviary.embedder_graph import TEXTS_PER_ROW

# Short texts share a row up to this width: three product descriptions of 21 tokens. Wider rows pay more for attention.
SHARED_WIDTH = 64
WIDTH_STEP = 16
# Tokens of one batch, padding included. Measured: 256 costs 5 % of the rate; more than 512 gains nothing but memory,
# and leaves a thread idle at the end.
BATCH_TOKENS = 512

Row = list[int]


class Batch(NamedTuple):
    """Rows of one inference: each the numbers of its texts, in order; `width` tokens a row."""

    rows: list[Row]
    width: int


def pack(lengths: Sequence[int]) -> list[Row]:
    """Every text's number, in rows: the longest remaining text opens a row, the longest that still fit join it."""
    by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
    sizes = [lengths[text] for text in by_length]
    rows = []
    while by_length:
        row, used = [by_length.pop()], sizes.pop()
        space = max(SHARED_WIDTH, _rounded(used)) - used
        while len(row) < TEXTS_PER_ROW and (fitting := bisect_right(sizes, space)):
            row.append(by_length.pop(fitting - 1))
            space -= sizes.pop(fitting - 1)
        rows.append(row)
    return rows


def batches(lengths: Sequence[int], limit: int = BATCH_TOKENS) -> list[Batch]:
    """All texts in batches of at most `limit` tokens (or of one row), the widest first."""
    rows = pack(lengths)
    used = [sum(lengths[text] for text in row) for row in rows]
    planned = []
    first = 0
    while first < len(rows):
        count, width = 1, _rounded(used[first])
        while first + 2 * count <= len(rows):
            wider = _rounded(max(used[first : first + 2 * count]))
            if wider * 2 * count > limit:
                break
            count, width = 2 * count, wider
        planned.append(Batch(rows[first : first + count], width))
        first += count
    return planned


def inputs(batch: Batch, tokens: Sequence[Sequence[int]]) -> list[NDArray[np.int32]]:
    """The graph's three inputs for one batch; `tokens` are the ids of all texts."""
    ids, texts, positions = np.zeros((3, len(batch.rows), batch.width), dtype=np.int32)
    for number, row in enumerate(batch.rows):
        start = 0
        for place, text in enumerate(row, 1):
            end = start + len(tokens[text])
            ids[number, start:end] = tokens[text]
            texts[number, start:end] = place
            positions[number, start:end] = np.arange(end - start)
            start = end
    return [ids, texts, positions]


def _rounded(length: int) -> int:
    return -(-length // WIDTH_STEP) * WIDTH_STEP
