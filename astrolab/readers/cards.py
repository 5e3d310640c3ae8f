"""The cards of a FITS header: their values, and the sizes and types that they state."""

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np

_TFORM = {"L": "S1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8", "C": ">c8", "M": ">c16"}
_STRING = re.compile(rb" *'((?:[^']|'')*)'")


class Hdu(NamedTuple):
    """One header and where its data lie: the raw value of each card, and offsets in bytes."""

    name: str
    cards: dict
    start: int
    data_start: int
    end: int

    def get(self, keyword, default=None):
        """Return the value of a card: int, float, bool or str."""
        raw = self.cards.get(keyword)
        return default if raw is None else parse_value(raw)


def axes(hdu):
    """Return NAXIS1, NAXIS2, … of an HDU, the fastest axis first."""
    return tuple(hdu.get(f"NAXIS{i}") for i in range(1, hdu.get("NAXIS") + 1))


def column_dtype(repeat, code):
    """Return the NumPy type of a binary table's column, such as ``3E``."""
    if code == "A":
        return np.dtype(f"S{repeat}")
    if code == "X":
        return np.dtype(("u1", (-(-repeat // 8),)))
    if code in "PQ":
        return np.dtype((">i4" if code == "P" else ">i8", (2,)))
    return np.dtype(_TFORM[code]) if repeat == 1 else np.dtype((_TFORM[code], (repeat,)))


@lru_cache(1 << 14)  # the headers of a survey say the same over and over
def parse_value(raw):
    """Return the value of a card: str, bool, int, float, or None where it is none of these."""
    text = _STRING.match(raw)
    if text:
        return text[1].decode().replace("''", "'").rstrip()
    value = raw.partition(b"/")[0].strip().decode()
    if value in ("T", "F"):
        return value == "T"
    if re.fullmatch(r"[+-]?\d{1,30}", value):
        return int(value)
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([ED][+-]?\d{1,3})?", value) and len(value) < 40:
        return float(value.replace("D", "E"))
    return None
