"""Write Zarr arrays whose number of rows is known only at the end."""

import numpy as np


class ChunkWriter:
    """Append rows to Zarr arrays in whole chunks, and cut the arrays to the rows that came.

    Parameters
    ----------
    arrays : list of zarr.Array, shape (n_rows_at_most, …)
        Of one chunk size.
    n_written : int, optional
        Rows that are there already, in whole chunks.
    """

    def __init__(self, arrays, n_written=0):
        self._arrays = arrays
        self._chunk = arrays[0].chunks[0]
        self._pending = None
        self._n_written = n_written

    def append(self, rows):
        """Append rows.

        Parameters
        ----------
        rows : numpy.ndarray, shape (n_arrays, n_rows, …)
            May have no rows at all.
        """
        if self._pending is not None:
            rows = np.concatenate([self._pending, rows], axis=1)
        n_whole = rows.shape[1] // self._chunk * self._chunk
        self._write(rows[:, :n_whole])
        self._pending = rows[:, n_whole:].copy() if n_whole < rows.shape[1] else None

    def close(self):
        """Write what is left of a chunk, and cut the arrays."""
        if self._pending is not None:
            self._write(self._pending)
        for array in self._arrays:
            array.resize((self._n_written, *array.shape[1:]))

    def _write(self, rows):
        stop = self._n_written + rows.shape[1]
        if stop > self._n_written:
            for array, values in zip(self._arrays, rows, strict=True):
                array[self._n_written : stop] = values
        self._n_written = stop
