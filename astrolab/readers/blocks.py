"""Read the pixels of rows that are strewn over many files, with a bounded amount of memory."""

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from astrolab.medians import median_snr
from astrolab.readers.files import BadFileError

_N_THREADS = 4
_CACHE_BYTES = 1 << 29  # decoded pixels kept, whatever the number of files


class PixelBlocks:
    """Blocks of pixels, read ahead by a few threads; the most recently used ones are kept, up to a number of bytes.

    Parameters
    ----------
    reader : module
        A survey's reader, with WAVELENGTH and ``read_pixels(path, start, stop)``.
    blocks : list of tuple
        ``(n_rows, path, start, stop)`` of each block.

    Attributes
    ----------
    failed : dict of str to tuple
        Path of each file that could not be read, with its `BadFileError` and the number of rows asked for in vain.
    """

    def __init__(self, reader, blocks):
        self._reader, self._blocks = reader, blocks
        self._futures = OrderedDict()
        self._n_bytes = 0
        self._buffers = 2 * [np.empty((2, 0, len(reader.WAVELENGTH)), np.float32)]
        self.failed = {}

    def __enter__(self):
        self._pool = ThreadPoolExecutor(_N_THREADS)
        return self

    def __exit__(self, *error):
        self._pool.shutdown(cancel_futures=True)

    def gather(self, block, row):
        """Return the pixels of these rows.

        Parameters
        ----------
        block, row : numpy.ndarray of int, shape (n_rows,)
            Number of the block, and row within it.

        Returns
        -------
        pixels : numpy.ndarray, shape (2, n_rows, n_wavelength), float32
            Flux and ivar; overwritten by the call after the next.
        snr : numpy.ndarray, shape (n_rows,), float32
            Median S/N.
        reasons : dict of int to str
            Reason for each row that must not be used; empty text where its file could not be read, see `failed`.
        """
        self._buffers.reverse()
        if self._buffers[0].shape[1] < len(row):
            self._buffers[0] = np.empty((2, len(row), len(self._reader.WAVELENGTH)), np.float32)
        pixels = self._buffers[0][:, : len(row)]
        snr = np.empty(len(row), np.float32)
        reasons = {}
        wanted = list(dict.fromkeys(block.tolist()))
        for i, number in enumerate(wanted):
            here = np.flatnonzero(block == number)
            found = self._get(number, wanted[i + 1 : i + 1 + _N_THREADS], len(here))
            if found is None:
                reasons.update(dict.fromkeys(here.tolist(), ""))
                continue
            values, block_snr, problems = found
            snr[here] = block_snr[row[here]]
            for part in range(2):
                _copy_rows(values[part], row[here], pixels[part], here)
            reasons.update({int(i): problems[int(row[i])] for i in here if problems and int(row[i]) in problems})
        return pixels, snr, reasons

    def _get(self, number, ahead, n_rows):
        path = self._blocks[number][1]
        for one in [number, *ahead]:
            self._request(one)
        if path not in self.failed:
            result = self._futures[number].result()
            if not isinstance(result, BadFileError):
                self._forget_old(keep=1 + len(ahead))
                return result
            self.failed[path] = (result, 0)
        error, n_before = self.failed[path]
        self.failed[path] = (error, n_before + n_rows)
        return None

    def _request(self, number):
        if number not in self._futures:
            self._futures[number] = self._pool.submit(result_or_error, self._read, *self._blocks[number][1:])
            self._n_bytes += self._size(number)
        self._futures.move_to_end(number)

    def _read(self, path, start, stop):
        pixels, problems = self._reader.read_pixels(path, start, stop)
        by_row = {row - start: reason for (_, row), reason in problems.items()}
        return pixels, median_snr(*pixels), by_row

    def _forget_old(self, keep):
        while self._n_bytes > _CACHE_BYTES and len(self._futures) > keep:
            number, _ = self._futures.popitem(last=False)
            self._n_bytes -= self._size(number)

    def _size(self, number):
        return 8 * self._blocks[number][0] * len(self._reader.WAVELENGTH)


def result_or_error(read, *arguments):
    """Return what `read` returns, or the `BadFileError` that it raises.

    Parameters
    ----------
    read : callable
        Reads a file.
    *arguments
        For it.

    Returns
    -------
    object
    """
    try:
        return read(*arguments)
    except BadFileError as error:
        return error


def _copy_rows(source, rows, target, places):
    """Copy rows, without a temporary array where the places lie side by side."""
    first, last = places[0], places[-1]
    if last - first + 1 == len(places):
        np.take(source, rows, axis=0, out=target[first : last + 1])
    else:
        target[places] = source[rows]
