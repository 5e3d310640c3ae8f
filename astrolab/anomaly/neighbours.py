"""Neighbours: the ordinary objects that a strange one is most like."""

import numpy as np
import pandas as pd


def nearest_ordinary(ranking, targetid, n=3, *, p_min=0.2, redshift_reach=0.05):
    """Find the ordinary objects of like redshift that are nearest in latent space.

    Parameters
    ----------
    ranking : pandas.DataFrame
        What `score_anomalies` gives, or a run's ``ranking.parquet``: ``targetid``, ``redshift``, ``p_value``,
        ``latent_0``, ``latent_1``, …
    targetid : int or sequence of int
        Of objects in the ranking.
    n : int, optional
        Neighbours of each.
    p_min : float, optional
        An object is ordinary where its ``p_value`` is above this.
    redshift_reach : float, optional
        Redshifts are alike within this times 1 + redshift: then both cover the same lines.

    Returns
    -------
    pandas.DataFrame
        In the order asked for: ``targetid``, ``neighbour`` (1 = nearest), ``targetid_ordinary``, ``distance``
        (Euclidean, each latent dimension divided by its standard deviation over the ranking), ``redshift_ordinary``.
        Fewer than `n` rows of an object with fewer ordinary ones of like redshift.

    Raises
    ------
    ValueError
        If an object is not in the ranking, or that has no latent vectors.

    Examples
    --------
    >>> ranking = pd.DataFrame({"targetid": [7, 8, 9], "redshift": 2.0, "p_value": [0.0, 0.5, 0.9]})
    >>> ranking["latent_0"] = [3.0, 0.0, 2.0]
    >>> nearest_ordinary(ranking, 7)["targetid_ordinary"].tolist()
    [9, 8]
    """
    names = [name for name in ranking if name.startswith("latent_")]
    if not names:
        raise ValueError("the ranking has no latent_0, expected what score_anomalies gives.")
    asked = np.atleast_1d(np.asarray(targetid, "int64"))
    place = pd.Index(ranking["targetid"]).get_indexer(asked)
    if (place < 0).any():
        raise ValueError(f"targetid {asked[place < 0][0]} is not in the ranking, expected one of its targetid.")
    latent = ranking[names].to_numpy("float64")
    latent = latent / np.maximum(latent.std(axis=0), 0.1)  # a dimension that is not used does not count
    rows = np.flatnonzero(ranking["p_value"].to_numpy() > p_min)
    rows = rows[np.argsort(ranking["redshift"].to_numpy()[rows], kind="stable")]
    redshift, ids = ranking["redshift"].to_numpy(), ranking["targetid"].to_numpy()
    found = []
    for one, at in zip(asked, place, strict=True):
        reach = redshift_reach * (1 + redshift[at])
        alike = rows[slice(*np.searchsorted(redshift[rows], [redshift[at] - reach, redshift[at] + reach]))]
        alike = alike[alike != at]
        distance = np.linalg.norm(latent[alike] - latent[at], axis=1)
        nearest = np.lexsort((ids[alike], distance))[:n]
        found += [(one, i + 1, ids[alike[k]], distance[k], redshift[alike[k]]) for i, k in enumerate(nearest)]
    columns = ["targetid", "neighbour", "targetid_ordinary", "distance", "redshift_ordinary"]
    return pd.DataFrame(found, columns=columns)
