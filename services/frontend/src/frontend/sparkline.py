"""Small pictures of a series: the points of an SVG polyline. Pure."""

from collections.abc import Sequence

WIDTH = 120.0
HEIGHT = 28.0
MARGIN = 2.0


def points(values: Sequence[float | None], width: float = WIDTH, height: float = HEIGHT) -> str:
    """The `points` attribute for `values`, oldest first, newest at the right edge; unknown values (None) are skipped.

    A series that never changes is a line on the floor at zero and in the middle elsewhere. Fewer than two known
    values draw nothing: the empty string.
    """
    known = [(position, value) for position, value in enumerate(values) if value is not None]
    if len(known) < 2:
        return ""
    lowest, highest = min(value for _, value in known), max(value for _, value in known)
    step = (width - 2 * MARGIN) / (len(values) - 1)
    flat = 0.0 if highest == 0 else 0.5
    drawn = []
    for position, value in known:
        level = flat if highest == lowest else (value - lowest) / (highest - lowest)
        drawn.append(f"{MARGIN + position * step:.1f},{height - MARGIN - level * (height - 2 * MARGIN):.1f}")
    return " ".join(drawn)
