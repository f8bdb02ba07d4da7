"""The table of prices. Figures, their sources and how to refresh them stand in prices.toml."""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

TABLE = Path(__file__).with_name("prices.toml")


@dataclass(frozen=True, kw_only=True)
class Price:
    """US dollars for one unit; the key in the table names the unit."""

    price: float
    source: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Prices:
    as_of: date
    hours_per_month: int
    table: Mapping[str, Price]

    def __getitem__(self, key: str) -> float:
        """Raises KeyError for what the table does not have."""
        return self.table[key].price

    def __contains__(self, key: str) -> bool:
        return key in self.table

    def monthly(self, key: str) -> float:
        """The price of an hour, for a month of them."""
        return self[key] * self.hours_per_month


@functools.cache
def load() -> Prices:
    raw = tomllib.loads(TABLE.read_text())
    return Prices(
        as_of=raw.pop("as_of"),
        hours_per_month=raw.pop("hours_per_month"),
        table={key: Price(**value) for key, value in raw.items()},
    )
