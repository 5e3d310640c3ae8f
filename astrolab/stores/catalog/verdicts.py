"""What a person says of an object: its words, and the check that they are said right."""

import math
import operator
from dataclasses import dataclass
from datetime import datetime

LABELS = ("anomaly", "regular", "unsure", "artefact")
QUALITIES = (0, 1, 2, 3, 4)  # DESI's scale: 0 no signal … 4 two or more secure features
FLAGS = ("R", "C", "S", "artefact", "astrophysics")  # bad redshift, bad class, bad spectrum; what the strangeness is
COMMENT_LIMIT = 20_000  # characters


@dataclass(frozen=True)
class Verdict:
    """One row of the catalog: what a person said of an object, or that they take it back.

    Attributes
    ----------
    id : int
        Counts up; the order of events.
    time : datetime.datetime
        UTC, by the clock of the process that stored it (the server's, not the browser's).
    run_id, targetid, survey : str, int, str
        Of which object, and in which run it was ranked.
    user : str
        Who said it.
    label : str
        One of ``LABELS``; empty in an undo, and where only a quality or the like was given.
    comment : str
        Free text, as typed.
    undoes : int or None
        The id of the verdict that this event takes back.
    key : str
        Idempotency key: a second event with the same one is not stored again.
    model_version : str
        The model that ranked the object.
    program : str
        The object's observing program.
    quality : int or None
        Of the spectrum and what it tells, one of ``QUALITIES``: 4 is certain.
    flags : str
        Some of ``FLAGS`` with a space between, in that order.
    spectype, redshift : str, float or None
        Class and redshift as inspected.
    seconds_spent : float or None
        How long the object was looked at, as the page measured it.
    is_repeat, is_audit : bool
        The object was shown again, to measure consistency; it was drawn at random, to measure recall. Vetters are not
        told.
    is_adjudication : bool
        A lead's decision where vetters disagree.
    imported_by : str
        Who brought it in from elsewhere; empty for what was said here.
    imported_row : str
        JSON of the row as it stood there.
    """

    id: int
    time: datetime
    run_id: str
    targetid: int
    survey: str
    user: str
    label: str
    comment: str
    undoes: int | None
    key: str
    model_version: str
    program: str = ""
    quality: int | None = None
    flags: str = ""
    spectype: str = ""
    redshift: float | None = None
    seconds_spent: float | None = None
    is_repeat: bool = False
    is_audit: bool = False
    is_adjudication: bool = False
    imported_by: str = ""
    imported_row: str = ""


def check_verdict(row):
    """Return a verdict's columns as they are stored.

    Parameters
    ----------
    row : dict
        Columns of the verdict; it must say something: a label, a quality, or one of the others.

    Returns
    -------
    dict
        The same columns, in the types of the table.

    Raises
    ------
    TypeError, ValueError
        If one is not what it should be; the sentence says which.

    Examples
    --------
    >>> row = {"run_id": "r", "targetid": 5, "user": "vera", "label": "", "quality": 4, "flags": ["S", "R"]}
    >>> check_verdict(row)["flags"]
    'R S'
    """
    row = {"label": "", "quality": None, "flags": "", "redshift": None, "seconds_spent": None} | row
    for name in ("run_id", "user"):
        if not isinstance(row[name], str) or not row[name]:
            raise ValueError(f"{name} is {row[name]!r}, expected a text that is not empty.")
    row |= {
        "targetid": exact_targetid(row["targetid"]),
        "label": _label(row),
        "quality": _quality(row["quality"]),
        "flags": _flags(row["flags"]),
        "redshift": _number("redshift", row["redshift"], above=-1),
        "seconds_spent": _number("seconds_spent", row["seconds_spent"], above=-1e-9),
    }
    for name, value in row.items():
        _check_text(name, value)
    return row


def exact_targetid(targetid):
    """Return a targetid as an int, exact.

    Parameters
    ----------
    targetid : int
        Any integer type, of 64 bits.

    Returns
    -------
    int

    Raises
    ------
    TypeError, ValueError
        If it is no integer, such as a float, or does not fit in 64 bits.

    Examples
    --------
    >>> exact_targetid(39627652591521181)
    39627652591521181
    """
    try:
        exact = operator.index(targetid)
    except TypeError:
        exact = None
    if exact is None or isinstance(targetid, bool):
        raise TypeError(
            f"targetid is {targetid!r} ({type(targetid).__name__}), expected an integer; "
            "above 2**53 a float cannot hold a DESI TARGETID."
        )
    if not -(2**63) <= exact < 2**63:
        raise ValueError(f"targetid is {exact}, expected a 64-bit integer.")
    return exact


def _label(row):
    label, others = row["label"], ("flags", "comment", "spectype")
    says_more = any(row[name] is not None for name in ("quality", "redshift")) or any(map(row.get, others))
    if label in LABELS or (label in ("", None) and says_more):
        return label or ""
    raise ValueError(f"label is {label!r}, expected one of: {', '.join(LABELS)}.")


def _quality(quality):
    if quality is None:
        return None
    if isinstance(quality, bool) or quality not in QUALITIES:
        raise ValueError(f"quality is {quality!r}, expected a whole number from 0 (no signal) to 4 (certain), or none.")
    return int(quality)


def _flags(flags):
    given = flags.split() if isinstance(flags, str) else list(flags)
    for flag in given:
        if flag not in FLAGS:
            raise ValueError(f"flags hold {flag!r}, expected some of: {', '.join(FLAGS)}.")
    if {"artefact", "astrophysics"} <= set(given):
        raise ValueError("flags hold both 'artefact' and 'astrophysics', expected at most one of the two.")
    return " ".join(flag for flag in FLAGS if flag in given)


def _number(name, value, above):
    if value is None:
        return None
    if isinstance(value, bool | str) or not math.isfinite(value) or value <= above:
        raise ValueError(f"{name} is {value!r}, expected a finite number above {above:g}, or none.")
    return float(value)


def _check_text(name, value):
    if not isinstance(value, str):
        return
    if len(value) > COMMENT_LIMIT and name != "imported_row":
        raise ValueError(f"{name} has {len(value):,} characters, expected at most {COMMENT_LIMIT:,}; shorten it.")
    # half a surrogate pair is no UTF-8, and PostgreSQL cannot hold the character NUL
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{name} holds a NUL character or half a surrogate pair, expected UTF-8 text without them.")
