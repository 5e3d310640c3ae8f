"""Fewer samples than pixels, nothing lost to the eye: a screen has a thousand columns, a spectrum eight thousand."""

import numpy as np

N_COLUMNS = 1000  # of a screen, that a plot is drawn on


def thinned_rows(x, values, low, high, n_columns=N_COLUMNS):
    """Choose the samples to draw: of each column of the screen the smallest and the largest.

    Parameters
    ----------
    x : numpy.ndarray, shape (n_wavelength,)
        Increasing.
    values : numpy.ndarray, shape (n_wavelength,)
        What is drawn; NaN where masked.
    low, high : float
        The part of `x` that is seen: it gets all the columns. What lies outside gets as many more, so that there is
        something to see at once when the view moves.
    n_columns : int, optional
        Columns of the screen.

    Returns
    -------
    rows : numpy.ndarray of int
        Increasing; a column without a good sample keeps a masked one, so that the gap stays.

    Examples
    --------
    >>> import numpy as np
    >>> thinned_rows(np.arange(12), np.array([0, 9, 1, 1, 5, 4, 4, 4, 2, 2, -7, 2]), 0, 11, n_columns=3)
    array([ 0,  1,  4,  5,  8, 10])
    """
    first, last = np.searchsorted(x, [low, high])
    parts = ((0, first), (first, last + 1), (last + 1, len(x)))
    return np.concatenate([start + _extremes(values[start:stop], n_columns) for start, stop in parts])


def _extremes(values, n_columns):
    """Return the places of the smallest and the largest of each run of values."""
    if len(values) <= 2 * n_columns:
        return np.arange(len(values))
    width = -(-len(values) // n_columns)
    runs = np.pad(values.astype("float64"), (0, -len(values) % width), constant_values=np.nan).reshape(-1, width)
    is_masked = np.isnan(runs)
    starts = np.arange(len(runs)) * width
    lowest = starts + np.where(is_masked, np.inf, runs).argmin(axis=1)
    highest = starts + np.where(is_masked, -np.inf, runs).argmax(axis=1)
    return np.unique([lowest, highest])
