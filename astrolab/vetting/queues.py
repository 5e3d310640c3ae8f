"""In which order a person sees the objects: by rank, shuffled a little, repeats and random objects mixed in unmarked.

Everything is drawn from the campaign's seed and the user's name: the same after a restart, another for each person.
"""

from hashlib import sha256
from typing import NamedTuple

import numpy as np
import pandas as pd

BLOCK = 10  # ranks that are shuffled among themselves, so that no two people tire on the same objects
REPEAT_GAP = 10  # slots at least between an object and its repeat


class Slot(NamedTuple):
    """A place in a person's queue; what they may know of it.

    Attributes
    ----------
    position : int
        0 comes first.
    targetid, survey, program : int, str, str
        The object.
    """

    position: int
    targetid: int
    survey: str
    program: str


def draw_audit_sample(n_objects, share, seed):
    """Draw the random sample that tells what the ranking misses.

    Parameters
    ----------
    n_objects : int
        How many objects a run offers.
    share : float
        Which share of them to draw, at least one.
    seed : int
        Of the campaign.

    Returns
    -------
    order : numpy.ndarray of int, shape (n_objects,)
        1, 2 … in the order in which the sample is looked at, 0 for objects outside it. Every object has the same
        chance, so the first of them are a simple random sample too, wherever people stop.
    probability : float
        The chance of each object to be in the sample.

    Examples
    --------
    >>> order, probability = draw_audit_sample(10, 0.2, seed=0)
    >>> sorted(order.tolist())[-2:], probability
    ([1, 2], 0.2)
    """
    order = np.zeros(n_objects, dtype="i8")
    n_sample = int(np.ceil(share * n_objects)) if share > 0 else 0
    sample = np.random.default_rng([seed, 1]).permutation(n_objects)[:n_sample]
    order[sample] = np.arange(1, n_sample + 1)
    return order, n_sample / n_objects if n_objects else 0.0


def make_queue(offered, user, *, seed, audit_share, repeat_share):
    """Make a person's queue.

    Parameters
    ----------
    offered : pandas.DataFrame
        What `Catalog.offered` returns, by rank.
    user : str
        Whose queue it is.
    seed, audit_share, repeat_share : int, float, float
        Of the campaign: the shares are of the slots, as long as there are objects for them.

    Returns
    -------
    pandas.DataFrame
        One row a slot: row (of `offered`) and kind: ``"rank"``, ``"audit"`` or ``"repeat"``. Every object stands there
        once, and those that are repeated once more, at least ten slots later.
    """
    name = int.from_bytes(sha256(user.encode()).digest()[:8], "big")
    rng = np.random.default_rng([seed, 2, name])
    audit_order = offered["audit_order"].fillna(0).to_numpy("i8")
    audit = iter(np.argsort(audit_order, kind="stable")[np.sum(audit_order == 0) :])
    ranked = iter(np.lexsort([rng.random(len(offered)), np.arange(len(offered)) // BLOCK]))
    slots, seen, repeated = [], set(), set()
    while len(seen) < len(offered):
        draw = rng.random()
        if draw < repeat_share:
            row, kind = _old_row(slots, repeated, rng), "repeat"
        elif draw < repeat_share + audit_share:
            row, kind = _next_new(audit, seen), "audit"
        else:
            row, kind = _next_new(ranked, seen), "rank"
        if row is not None:
            slots.append((row, kind))
            (repeated if kind == "repeat" else seen).add(row)
    return pd.DataFrame(slots, columns=["row", "kind"]).astype({"row": "int64"})  # also where there is none


def _next_new(rows, seen):
    """Return the next row that is not in the queue yet, or None."""
    return next((int(row) for row in rows if int(row) not in seen), None)


def _old_row(slots, repeated, rng):
    """Return a row from long enough ago that was not repeated yet, or None."""
    if len(slots) < REPEAT_GAP:
        return None
    row, kind = slots[rng.integers(len(slots) - REPEAT_GAP + 1)]
    return None if kind == "repeat" or row in repeated else row
