"""Millions of objects on a screen: means and counts of the cells of a map, and which objects a shape encloses.

One numba pass gives what the map shows of all objects and of the selected ones. It is as quick as datashader's, which
needs two, and whose kernels are compiled anew in every process: three seconds that the first page would wait.
"""

from typing import NamedTuple

import numpy as np
from numba import njit


class Cells(NamedTuple):
    """What the cells of a map hold, from the lower left.

    Attributes
    ----------
    n_all, n_kept : numpy.ndarray, shape (n_y, n_x)
        Objects, and those of them that are selected.
    mean : numpy.ndarray, shape (n_y, n_x)
        Of the selected objects' values that are finite; NaN where there is none.
    """

    n_all: np.ndarray
    n_kept: np.ndarray
    mean: np.ndarray


def count_cells(x, y, value, keep, extent, shape):
    """Count the objects in each cell of a map, and average a value of the selected ones.

    Parameters
    ----------
    x, y, value : numpy.ndarray, shape (n_object,), float32
        Positions, and what is averaged. An object without a position is in no cell.
    keep : numpy.ndarray, shape (n_object,), bool
        Which objects are selected.
    extent : tuple of float
        x_min, x_max, y_min, y_max of the map.
    shape : tuple of int
        n_y, n_x.

    Returns
    -------
    Cells

    Examples
    --------
    >>> x = np.array([0.1, 0.2, 0.9], "f4")
    >>> cells = count_cells(x, x, np.array([1, 3, 5], "f4"), np.array([True, True, False]), (0, 1, 0, 1), (2, 2))
    >>> cells.n_all.tolist(), float(cells.mean[0, 0])
    ([[2, 0], [0, 1]], 2.0)
    """
    n_all, n_kept, n_value = (np.zeros(shape, "int32") for _ in range(3))
    total = np.zeros(shape, "float64")
    _add_objects(x, y, value, keep, *map(float, extent), n_all, n_kept, n_value, total)
    mean = np.divide(total, n_value, out=np.full(shape, np.nan), where=n_value > 0)
    return Cells(n_all, n_kept, mean.astype("float32"))


def within_polygon(x, y, corners_x, corners_y):
    """Return which points lie within a polygon, such as a lasso draws.

    Parameters
    ----------
    x, y : numpy.ndarray, shape (n_object,), float32
        Points.
    corners_x, corners_y : sequence of float
        Corners; the last is joined to the first. Where the line crosses itself, even-odd.

    Returns
    -------
    numpy.ndarray of bool, shape (n_object,)

    Examples
    --------
    >>> within_polygon(np.array([0.5, 2], "f4"), np.array([0.5, 0.5], "f4"), [0, 1, 1, 0], [0, 0, 1, 1]).tolist()
    [True, False]
    """
    return _enclosed(x, y, np.asarray(corners_x, "float64"), np.asarray(corners_y, "float64"))


@njit(nogil=True, cache=True)
def _add_objects(x, y, value, keep, x_min, x_max, y_min, y_max, n_all, n_kept, n_value, total):
    n_y, n_x = n_all.shape
    scale_x, scale_y = n_x / (x_max - x_min), n_y / (y_max - y_min)
    for i in range(len(x)):
        if x_min <= x[i] < x_max and y_min <= y[i] < y_max:
            column = min(int((x[i] - x_min) * scale_x), n_x - 1)
            row = min(int((y[i] - y_min) * scale_y), n_y - 1)
            n_all[row, column] += 1
            if keep[i]:
                n_kept[row, column] += 1
                if np.isfinite(value[i]):
                    n_value[row, column] += 1
                    total[row, column] += value[i]


@njit(nogil=True, cache=True)
def _enclosed(x, y, corners_x, corners_y):
    low_x, high_x, low_y, high_y = corners_x.min(), corners_x.max(), corners_y.min(), corners_y.max()
    is_in = np.zeros(len(x), np.bool_)
    n = len(corners_x)
    for i in range(len(x)):
        if low_x <= x[i] <= high_x and low_y <= y[i] <= high_y:
            for k in range(n):
                x1, y1, x2, y2 = corners_x[k - 1], corners_y[k - 1], corners_x[k], corners_y[k]
                if (y1 > y[i]) != (y2 > y[i]) and x[i] < (x2 - x1) * (y[i] - y1) / (y2 - y1) + x1:
                    is_in[i] = not is_in[i]
    return is_in
