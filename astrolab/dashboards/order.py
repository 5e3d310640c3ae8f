"""In which order the places of a queue come after a re-ranking, and what moved."""

import numpy as np

from astrolab.anomaly.rerank import rerank

N_MOVES = 30


def merged_order(order, done, row_of, rows_by_rank):
    """Put what is not vetted yet in an order in which every other place is the next of the new ranking.

    The places between stay those of the person's own queue, so that its random objects and repeats keep coming: without
    them nobody would know what the ranking misses.

    Parameters
    ----------
    order : list of int
        Places of the queue, as they come now.
    done : set of int
        Those that have a verdict; they stay in front.
    row_of : list of int
        The object of each place.
    rows_by_rank : list of int
        The objects, strangest first, by the new ranking.

    Returns
    -------
    list of int
        The same places.

    Examples
    --------
    >>> merged_order([0, 1, 2, 3], {0}, [10, 11, 12, 13], [13, 12, 11, 10])
    [0, 3, 1, 2]
    """
    first = {}
    for place in sorted(range(len(row_of)), reverse=True):
        first[row_of[place]] = place
    waiting = [place for place in order if place not in done]
    learned = [first[row] for row in rows_by_rank if row in first and first[row] not in done]
    pairs = [place for pair in zip(learned, waiting, strict=False) for place in pair]
    return [place for place in order if place in done] + list(dict.fromkeys([*pairs, *waiting]))


def rank_by_labels(table, labels):
    """Rank again by labels, and say what moved and why.

    Parameters
    ----------
    table : pandas.DataFrame
        One row an object, see `astrolab.plots.ranking_table`.
    labels : dict
        targetid to label.

    Returns
    -------
    rows : list of int
        Of `table`, strangest first by the new ranking.
    moves : pandas.DataFrame
        The first of the new ranking: new rank, old rank, targetid (text), ``row``, and why: the labelled object that is
        most alike in latent space.

    Raises
    ------
    ValueError
        If `rerank` refuses the labels.
    """
    again = rerank(table.assign(row=np.arange(len(table))), labels, n_jobs=1)
    rows = again["row"].tolist()
    top = again.head(N_MOVES)
    why = [_most_alike(table, row, labels) for row in top["row"]]
    moves = top[["anomaly_rank_reranked", "anomaly_rank", "name", "row"]].reset_index(drop=True)
    moves.columns = ["new rank", "old rank", "targetid", "row"]
    old_place = again["row"].rank().astype(int)
    moves.insert(2, "moved", [_arrow(old - new) for old, new in zip(old_place, moves["new rank"], strict=False)])
    return rows, moves.assign(why=why)


def _most_alike(table, row, labels):
    """Say which labelled object is nearest in latent space."""
    latent = table[[name for name in table if name.startswith("latent_")]].to_numpy("float64")
    known = np.flatnonzero(table["targetid"].isin(list(labels)))
    if not len(known) or not latent.shape[1]:
        return ""
    targetid = int(table["targetid"].iloc[row])
    if targetid in labels:
        return f"labelled: {labels[targetid]}"
    scale = np.maximum(latent.std(axis=0), 1e-12)
    nearest = known[np.argmin((((latent[known] - latent[row]) / scale) ** 2).sum(axis=1))]
    name = int(table["targetid"].iloc[nearest])
    return f"most like {name}: {labels[name]}"


def _arrow(places):
    return "=" if places == 0 else f"▲ {places}" if places > 0 else f"▼ {-places}"


def end_of_queue(n_left, *, is_narrowed, may_write):
    """Say that this is the end of a queue, and what to do next.

    Parameters
    ----------
    n_left : int
        Its places without a verdict.
    is_narrowed : bool
        It holds only what the person chose.
    may_write : bool
        The person may store verdicts.

    Returns
    -------
    str

    Examples
    --------
    >>> end_of_queue(2, is_narrowed=False, may_write=True)
    'this is the end of your queue; places without a verdict: 2'
    """
    what = "what you chose" if is_narrowed else "your queue"
    if not may_write:
        return f"this is the end of {what}"
    if n_left:
        return f"this is the end of {what}; places without a verdict: {n_left:,}"
    if is_narrowed:
        return "what you chose is finished: clear the selection to go on"
    return "your queue is finished: 'Progress and recall' says what to do next"
