"""Read the pixels of rows that are strewn over many files, with a bounded amount of memory."""

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from astrolab.medians import median_snr
from astrolab.readers.files import BadFileError

_N_THREADS = 4
_CACHE_BYTES = 1 << 29  # pixels kept, whatever the number of files
_ROWS_AT_ONCE = 32  # what a processor's cache holds: their S/N follows at once


class PixelBlocks:
    """Blocks of pixels, read ahead by a few threads; the most recently used ones are kept, up to a number of bytes.

    Parameters
    ----------
    reader : module
        A survey's reader, with WAVELENGTH and ``read_block(path, start, stop)``, whose result fills rows in.
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
        self._n_left = [n_rows for n_rows, *_ in blocks]
        self._n_bytes = 0
        self.failed = {}

    def __enter__(self):
        self._pool = ThreadPoolExecutor(_N_THREADS)
        return self

    def __exit__(self, *error):
        self._pool.shutdown(cancel_futures=True)

    def gather(self, block, row, pixels):
        """Put the pixels of these rows into an array.

        Parameters
        ----------
        block, row : numpy.ndarray of int, shape (n_rows,)
            Number of the block, and row within it.
        pixels : numpy.ndarray, shape (2, n_rows, n_wavelength), float32
            Filled with flux and ivar; what stands in rows that must not be used means nothing.

        Returns
        -------
        snr : numpy.ndarray, shape (n_rows,), float32
            Median S/N.
        reasons : dict of int to str
            Reason for each row that must not be used; empty text where its file could not be read, see `failed`.
        """
        snr = np.empty(len(row), np.float32)
        reasons = {}
        wanted = list(dict.fromkeys(block.tolist()))
        for i, number in enumerate(wanted):
            here = np.flatnonzero(block == number)
            found = self._get(number, wanted[i + 1 : i + 1 + _N_THREADS], len(here))
            if found is None:
                reasons.update(dict.fromkeys(here.tolist(), ""))
                continue
            for first in range(0, len(here), _ROWS_AT_ONCE):
                places = here[first : first + _ROWS_AT_ONCE]
                problems = found.fill(row[places], pixels, places)
                reasons.update({int(i): problems[int(row[i])] for i in places if int(row[i]) in problems})
                snr[places] = median_snr(*pixels[:, _side_by_side(places)])
            self._forget_used(number, len(here))
        return snr, reasons

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
            arguments = self._blocks[number][1:]
            self._futures[number] = self._pool.submit(result_or_error, self._reader.read_block, *arguments)
            self._n_bytes += self._size(number)
        self._futures.move_to_end(number)

    def _forget_used(self, number, n_rows):
        self._n_left[number] -= n_rows
        if self._n_left[number] <= 0 and self._futures.pop(number, None):
            self._n_bytes -= self._size(number)

    def _forget_old(self, keep):
        while self._n_bytes > _CACHE_BYTES and len(self._futures) > keep:
            number, _ = self._futures.popitem(last=False)
            self._n_bytes -= self._size(number)

    def _size(self, number):
        return 9 * self._blocks[number][0] * len(self._reader.WAVELENGTH)  # flux, ivar and a byte of mask


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


def _side_by_side(places):
    """Return the slice of places that follow one another: by an array of numbers, numpy copies."""
    first, last = places[0], places[-1]
    return slice(first, last + 1) if last - first + 1 == len(places) else places
