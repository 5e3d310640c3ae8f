"""Write Zarr arrays whose number of rows is known only at the end, in whole chunks, as fast as the disk allows."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from astrolab.stores.chunk_files import empty_pages, write_chunk


class ChunkWriter:
    """Append rows to arrays of a local store in whole chunks, and cut the arrays to the rows that came.

    Rows are put where they are written from: into one of two buffers, while the other one is written.

    Parameters
    ----------
    arrays : list of zarr.Array, shape (n_rows_at_most, …)
        As `add_array` makes them, of one shape, dtype and chunk size.
    n_written : int, optional
        Rows that are there already, in whole chunks.
    """

    def __init__(self, arrays, n_written=0):
        self._arrays = arrays
        self._chunk = arrays[0].chunks[0]
        self._n_written, self._n_pending = n_written, 0
        # the rows that do not fill a chunk, and those of a chunk after them
        shape = (len(arrays), 2 * self._chunk, *arrays[0].shape[1:])
        self._buffers = [empty_pages(shape, arrays[0].dtype) for _ in range(2)]

    def room(self, n_rows):
        """Return where the next rows are to be put.

        Parameters
        ----------
        n_rows : int
            Rows, at most those of a chunk.

        Returns
        -------
        numpy.ndarray, shape (n_arrays, n_rows, …)
        """
        return self._buffers[0][:, self._n_pending : self._n_pending + n_rows]

    def keep(self, good):
        """Keep rows that were put into the room; what was to be written before must have been written.

        Parameters
        ----------
        good : numpy.ndarray, shape (n_rows,), bool
            Which.

        Returns
        -------
        numpy.ndarray, shape (n_arrays, n_chunk, …), or None
            A chunk to `write`, once there is a whole one.
        """
        room, kept = self.room(len(good)), np.flatnonzero(good)
        first = np.argmin(good) if len(kept) < len(good) else len(good)
        room[:, first : len(kept)] = room[:, kept[first:]]
        self._n_pending += len(kept)
        if self._n_pending < self._chunk:
            return None
        full = self._buffers[0]
        self._buffers.reverse()
        self._n_pending -= self._chunk
        self._buffers[0][:, : self._n_pending] = full[:, self._chunk : self._chunk + self._n_pending]
        return full[:, : self._chunk]

    def write(self, chunk):
        """Write a chunk, each array in a thread of its own.

        Parameters
        ----------
        chunk : numpy.ndarray, shape (n_arrays, n_chunk, …)
            As `keep` gave it.
        """
        number = self._n_written // self._chunk
        arrays = self._arrays
        with ThreadPoolExecutor(len(arrays)) as pool:
            tasks = [
                pool.submit(write_chunk, array, array.store_path.store.root, number, values)
                for array, values in zip(arrays, chunk, strict=True)
            ]
            for task in tasks:
                task.result()
        self._n_written += self._chunk

    def close(self):
        """Write what is left of a chunk, and cut the arrays."""
        n_rows = self._n_written + self._n_pending
        if self._n_pending:
            chunk = self._buffers[0][:, : self._chunk]
            for array, values in zip(self._arrays, chunk, strict=True):
                values[self._n_pending :] = array.fill_value
            self.write(chunk)
        for array in self._arrays:
            array.resize((n_rows, *array.shape[1:]))
