"""Vectors and records for tests."""

from typing import Any

import numpy as np

from aviary.index import Record, Vector

DIMENSION = 384


def unit_vectors(count: int, seed: int = 0, dimension: int = DIMENSION) -> Vector:
    """Shape (count, dimension), each row of length 1."""
    values = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    unit: Vector = values / np.linalg.norm(values, axis=1, keepdims=True)
    return unit


def records(count: int, seed: int = 0, prefix: str = "k") -> list[Record]:
    """Ids `k0`, `k1`, …, with metadata as the services write it."""
    values = unit_vectors(count, seed)
    return [
        Record(f"{prefix}{i}", values[i], {"_key": f"{prefix}{i}", "_version": i + 1, "category": f"c{i % 3}"})
        for i in range(count)
    ]


def as_dict(record: Record) -> dict[str, Any]:
    """As the SDK takes it."""
    return {"id": record.id, "values": record.values.tolist(), "metadata": record.metadata}
