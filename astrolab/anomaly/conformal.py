"""p-values of scores among objects of like redshift, S/N and coverage, without a model of their distribution."""

from dataclasses import dataclass

import numpy as np

from astrolab.anomaly.calibration import column_quantiles, normal_scores

# a p-value is drawn among at least so many objects
_N_CELL = 500


@dataclass(frozen=True)
class Cells:
    """Groups of like objects and their scores, for p-values; from `fit_cells`.

    Attributes
    ----------
    quantiles : numpy.ndarray, shape (n_column, n_quantile)
        As in `Peers`.
    column, limit : numpy.ndarray, shape (n_split,)
        A balanced tree of splits, breadth first: an object above the limit in that column goes right.
    start : numpy.ndarray, shape (n_cell + 1,)
        Where each cell's scores begin.
    scores : numpy.ndarray, shape (object,)
        Scores of the reference objects, sorted within each cell.
    """

    quantiles: np.ndarray
    column: np.ndarray
    limit: np.ndarray
    start: np.ndarray
    scores: np.ndarray


def fit_cells(scores, matched):
    """Group objects of like redshift, S/N and coverage, for p-values among their own kind.

    Parameters
    ----------
    scores : numpy.ndarray, shape (object,)
        Scores of the reference, larger = stranger.
    matched : numpy.ndarray, shape (object, n_column)
        What the members of a cell have in common.

    Returns
    -------
    Cells
        As many as leave 500 objects in each, halves of halves.
    """
    quantiles = column_quantiles(matched)
    place = normal_scores(quantiles, matched)
    depth = max(int(np.log2(max(len(scores) / _N_CELL, 1))), 0)
    column, limit = np.zeros(2**depth - 1, int), np.zeros(2**depth - 1)
    # rows of each node of a level, and their places side by side: each level looks at all of them once, in their order
    groups = [(np.arange(len(scores)), place)]
    for level in range(depth):
        halves = []
        for split, (rows, inside) in enumerate(groups, 2**level - 1):
            column[split] = np.argmax(np.ptp(inside, axis=0)) if len(rows) else 0
            limit[split] = np.median(inside[:, column[split]]) if len(rows) else 0.0
            is_above = inside[:, column[split]] > limit[split]
            halves += [(rows[half], inside[half]) for half in (~is_above, is_above)]
        groups = halves
    cell = np.empty(len(scores), int)
    for number, (rows, _) in enumerate(groups):
        cell[rows] = number
    order = np.lexsort((scores, cell))
    start = np.searchsorted(cell[order], np.arange(2**depth + 1))
    return Cells(quantiles, column, limit, start, np.asarray(scores, "float64")[order])


def conformal_p_values(cells, scores, matched, is_member):
    """Return the share of like objects that are at least as strange.

    Parameters
    ----------
    cells : Cells
        The reference, from `fit_cells`.
    scores, matched : numpy.ndarray, shape (object,), (object, n_column)
        Of the objects that are asked about.
    is_member : numpy.ndarray, shape (object,), bool
        The object is itself one of the reference.

    Returns
    -------
    numpy.ndarray, shape (object,)
        ``(1 + number of others in the cell at least as strange) / (1 + number of others)`` (Vovk et al. 2005; Bates et
        al. 2023, Annals of Statistics 51, 149): for an object exchangeable with the reference it is at most α with
        probability α, whatever the score's distribution. A reference that holds anomalies itself makes it larger, never
        smaller (Bashari et al. 2025).
    """
    place = normal_scores(cells.quantiles, matched)
    node = np.zeros(len(scores), int)
    while len(cells.column) and node.min(initial=len(cells.column)) < len(cells.column):
        node = 2 * node + 1 + (place[np.arange(len(place)), cells.column[node]] > cells.limit[node])
    cell = node - len(cells.column)
    n_above, n_cell = np.zeros(len(scores)), np.diff(cells.start)[cell]
    order = np.argsort(cell, kind="stable")
    first = np.searchsorted(cell[order], np.arange(len(cells.start)))
    for index in range(len(cells.start) - 1):
        rows = order[first[index] : first[index + 1]]
        own = cells.scores[cells.start[index] : cells.start[index + 1]]
        n_above[rows] = len(own) - np.searchsorted(own, np.asarray(scores)[rows], side="left")
    is_member = np.asarray(is_member, bool) & (n_above > 0)
    return np.where(is_member, n_above / np.maximum(n_cell, 1), (1 + n_above) / (1 + n_cell))
