"""A chunk that kills its workers, computed where it can kill nothing else, and without the rows that do it."""

import multiprocessing

import dask
import numpy as np
from distributed.protocol.pickle import dumps, loads

_SPAWN = multiprocessing.get_context("spawn")


def compute_isolated(function, blocks, options, shape):
    """Compute one chunk in a process of its own; rows that kill the process are found and set aside.

    The other rows are computed as one chunk in which the bad ones are blank (zero: flux and ivar alike), so that they
    come out as they would beside good ones.

    Parameters
    ----------
    function : callable
        Of the blocks and the options.
    blocks : list of dask.array.Array
        One chunk of each input.
    options : dict
        For the function; `dask.delayed` values are computed.
    shape : tuple
        Columns and dtype of the result.

    Returns
    -------
    values : numpy.ndarray, shape (n_rows, n_columns)
        NaN in the rows set aside.
    bad_rows : list of int
        These rows; all of them where reading the chunk is what kills.
    """
    n_columns, dtype = shape
    n_rows = blocks[0].shape[0]
    # as Dask would: what a notebook defines has no module that a process could import
    task = dumps((function, list(dask.optimize(*blocks)), options))
    values, row = _in_child(task, [], is_by_row=False)
    bad_rows = []
    while values is None and row is not None and row < n_rows:
        values, row = _in_child(task, bad_rows, is_by_row=True)
        if values is None and row is not None and row < n_rows:
            bad_rows.append(row)
    if values is None:
        return np.full((n_rows, n_columns), np.nan, dtype), list(range(n_rows))
    values = np.array(values)
    values[bad_rows] = np.nan
    return values, bad_rows


def _in_child(task, bad_rows, is_by_row):
    """Return what a child computed, or None if it died; and the row it had begun.

    That is None while it was reading, -1 before the first row, and the number of rows when each went well alone.
    """
    receiver, sender = _SPAWN.Pipe(duplex=False)
    child = _SPAWN.Process(target=_compute, args=(sender, task, bad_rows, is_by_row), daemon=True)
    child.start()
    sender.close()
    values, row = None, None
    try:
        while values is None:
            message = receiver.recv()
            values, row = (None, message) if isinstance(message, int) else (message, row)
            if isinstance(values, Exception):
                raise values
    except EOFError:
        values = None
    finally:
        receiver.close()
        child.join()
        child.close()
    return values, row


def _compute(sender, task, bad_rows, is_by_row):
    """In the child: say which row is begun, and at the end what all rows gave."""
    try:
        function, blocks, options = loads(task)
        with dask.config.set(scheduler="synchronous"):
            arrays = [np.array(array) for array in dask.compute(*blocks)]
            options = dask.compute(options)[0]
        sender.send(-1)
        for array in arrays:
            array[bad_rows] = 0
        for row in range(max(bad_rows, default=-1) + 1, len(arrays[0])) if is_by_row else ():
            sender.send(row)
            function(*(array[row : row + 1] for array in arrays), **options)
        if is_by_row:
            sender.send(len(arrays[0]))
        sender.send(np.asarray(function(*arrays, **options)))
    except Exception as error:  # noqa: BLE001 whatever it is, the parent raises it
        sender.send(error)
