"""Open FITS files that nobody vouches for; what the readers share.

Before any data is read, the sizes that the headers state are compared with the size of the file, so that a truncated
file, a zeroed header or an absurd NAXIS ends in a sentence and not in a hang. Only headers, the columns and the images
that a reader asks for are read, and every HDU that carries CHECKSUM or DATASUM is verified before it is used.

Why not astropy here: it accepts a third of the damaged files, needs 150 ms for the 236-column table of one SDSS
spectrum (this file: 2 ms), and its warnings, which must become errors, are switched for all threads at once. The tests
compare with astropy column by column and pixel by pixel.
"""

import gzip
import io
import math
import re
import zlib
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from astrolab.readers.bigendian import find_flags, sum_words
from astrolab.readers.cards import Hdu, axes, column_dtype, parse_value
from astrolab.readers.files import BadFileError, open_bytes

BLOCK = 2880
_MAX_HEADER_BLOCKS = 4000  # 144,000 cards; an SDSS header has about a thousand
_VERIFY_SMALLER_BYTES = 1 << 20  # an HDU that nobody uses is verified too where that costs nothing
_KEPT_BYTES = 1 << 25
_UNZIPPED_BYTES = 1 << 28  # a gzip file may grow to this, or to 20 times its size
_PRINTABLE = bytes(range(32, 127))
_ALL_ONES = 0xFFFFFFFF

_BITPIX = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_CARD = re.compile(rb"([A-Z0-9_-]+) *= (.*)", re.DOTALL)
_FORM = re.compile(r"(\d*)([LXBIJKAEDCMPQ])")


class Rows(NamedTuple):
    """What a reader knows of a file before it reads pixels.

    Attributes
    ----------
    columns : dict of str to numpy.ndarray
        The in-memory columns of the data model, each of shape (n_rows,).
    has_checksum : bool
        Every HDU that the reader uses carries a CHECKSUM or DATASUM; without one, a flipped bit in the data of an
        otherwise sane file cannot be seen.
    is_simulated : bool
        The file says that it holds no observations.
    """

    columns: dict
    has_checksum: bool
    is_simulated: bool = False


class FitsFile:
    """A FITS file whose structure has been checked.

    Attributes
    ----------
    path : str
        Path or URL.
    hdus : dict of str to Hdu
        By EXTNAME; an HDU without one by its number, such as ``"1"``.
    """

    def __init__(self, path, file, size, with_checksums=True):
        self.path = path
        self._file = file
        self._size = size
        self._verified = set()
        self._kept = 0, b""  # data that were verified last, and where they are: as a rule they are asked for next
        self.hdus = self._walk()
        if not with_checksums:
            self._verified.update(self.hdus)

    def bad(self, code, reason):
        """Return the error that says what is wrong with this file."""
        return BadFileError(self.path, code, reason)

    def hdu(self, name):
        """Return the HDU of that name, not yet verified against its checksum."""
        if name not in self.hdus:
            raise self.bad("missing_hdu", f"has no HDU {name}; it has {', '.join(self.hdus)}")
        return self.hdus[name]

    def verify(self, name):
        """Verify an HDU against its checksum, where it carries one, and return whether it does."""
        hdu = self.hdu(name)
        stated, whole = hdu.get("DATASUM"), hdu.get("CHECKSUM")
        if name not in self._verified and (stated or whole):
            self._verify(hdu, stated, whole)
            self._verified.add(name)
        return bool(stated or whole)

    def verify_small(self):
        """Verify every small HDU, also those that nobody asked for: damage there speaks against the whole file."""
        for name, hdu in self.hdus.items():
            if hdu.end - hdu.start <= _VERIFY_SMALLER_BYTES:
                self.verify(name)

    def shape(self, name):
        """Return the shape of an image, the slowest axis first."""
        return axes(self.hdu(name))[::-1]

    def n_rows(self, name):
        """Return the number of rows of a binary table."""
        return self._table_hdu(name).get("NAXIS2")

    def image(self, name, start=0, stop=None):
        """Return rows of an unscaled floating-point image.

        Parameters
        ----------
        name : str
            EXTNAME.
        start, stop : int, optional
            Rows along the slowest axis.

        Returns
        -------
        numpy.ndarray
            Big-endian as on disk; read-only.
        """
        raw, hdu = self._raw_image(name, start, stop)
        if raw.dtype.kind != "f" or self._number(hdu, "BSCALE", 1) != 1 or self._number(hdu, "BZERO", 0) != 0:
            raise self.bad("dtype", f"HDU {name} is not a plain floating-point image (BITPIX {hdu.get('BITPIX')})")
        return raw

    def flags(self, name, start=0, stop=None):
        """Return where an integer bit mask is not zero.

        Parameters
        ----------
        name : str
            EXTNAME.
        start, stop : int, optional
            Rows along the slowest axis.

        Returns
        -------
        numpy.ndarray of bool
            True where any bit is set.
        """
        raw, hdu = self._raw_image(name, start, stop)
        zero = -self._number(hdu, "BZERO", 0)
        if raw.dtype.kind not in "iu" or self._number(hdu, "BSCALE", 1) != 1 or zero != int(zero):
            raise self.bad("dtype", f"HDU {name} is not an integer bit mask (BITPIX {hdu.get('BITPIX')})")
        is_set, has_negative = find_flags(raw, int(zero))
        if has_negative:
            raise self.bad("dtype", f"HDU {name} holds negative numbers, which no bit mask has")
        return is_set

    def table(self, name):
        """Return a function that gives the columns of a binary table.

        Parameters
        ----------
        name : str
            EXTNAME.

        Returns
        -------
        function
            ``column(name, kind, default)`` with kind ``"i"`` (int64), ``"f"`` (float64) or ``"U"`` (str); names in
            either case. Where the column is absent, `default` fills it, or there is an error when it is None.
        """
        hdu = self._table_hdu(name)
        self.verify(name)
        width, n_rows = axes(hdu)
        columns = self._columns(hdu, width)
        data = self._read(hdu.data_start, width * n_rows)

        def column(wanted, kind, default=None):
            if wanted.upper() not in columns:
                if default is None:
                    raise self.bad("missing_column", f"HDU {name} has no column {wanted}")
                return np.full(n_rows, default, {"i": "i8", "f": "f8", "U": None}[kind])
            number, form, offset = columns[wanted.upper()]
            layout = np.dtype({"names": ["x"], "formats": [form], "offsets": [offset], "itemsize": width})
            values = np.frombuffer(data, layout, n_rows)["x"]
            return self._native(values, kind, f"column {wanted} of HDU {name}", hdu, number)

        return column

    def _native(self, values, kind, what, hdu, number):
        zero, scale = self._number(hdu, f"TZERO{number}", 0), self._number(hdu, f"TSCAL{number}", 1)
        if values.ndim != 1:
            raise self.bad("shape", f"{what} holds {values.shape[1:]} numbers a row, expected one")
        if kind == "U" and values.dtype.kind == "S":
            try:
                return np.char.strip(values.astype("U"))
            except UnicodeDecodeError:
                raise self.bad("damaged", f"{what} holds bytes that are not ASCII") from None
        if kind == "i" and values.dtype.kind in "iu" and scale == 1 and zero == int(zero) and abs(zero) <= 2**31:
            return values.astype("i8") + int(zero)
        if kind == "f" and values.dtype.kind == "f":
            return values.astype("f8") * scale + zero
        expected = {"i": "integers", "f": "floating-point numbers", "U": "text"}[kind]
        raise self.bad("dtype", f"{what} is {values.dtype}, expected {expected}")

    def _number(self, hdu, keyword, default):
        value = hdu.get(keyword, default)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self.bad("damaged", f"HDU {hdu.name} states {keyword} {value}, expected a number")
        return value

    def _table_hdu(self, name):
        hdu = self.hdu(name)
        if hdu.get("XTENSION") != "BINTABLE" or len(axes(hdu)) != 2:
            raise self.bad("damaged", f"HDU {name} is not a binary table")
        return hdu

    def _columns(self, hdu, width):
        columns, offset = {}, 0
        n_columns = hdu.get("TFIELDS")
        if not isinstance(n_columns, int) or not 0 <= n_columns <= 999:
            raise self.bad("damaged", f"HDU {hdu.name} states {n_columns} columns")
        for number in range(1, n_columns + 1):
            form = _FORM.match(str(hdu.get(f"TFORM{number}")))
            label = hdu.get(f"TTYPE{number}")
            if form is None or not isinstance(label, str) or label.upper() in columns:
                raise self.bad("damaged", f"column {number} of HDU {hdu.name} has no name or type of its own")
            repeat = int(form[1] or 1)
            if repeat > 8 * width:
                raise self.bad("shape", f"column {label} of HDU {hdu.name} states {repeat} numbers in {width} bytes")
            dtype = column_dtype(repeat, form[2])
            columns[label.upper()] = (number, dtype, offset)
            offset += dtype.itemsize
        if offset != width:
            raise self.bad("shape", f"the columns of HDU {hdu.name} take {offset} bytes a row, the header says {width}")
        return columns

    def _raw_image(self, name, start, stop):
        hdu = self.hdu(name)
        self.verify(name)
        if "ZIMAGE" in hdu.cards:
            raise self.bad("compressed", f"HDU {name} is tile-compressed: run funpack on the file first")
        shape = self.shape(name)
        if hdu.get("XTENSION") not in ("IMAGE", None) or not shape:
            raise self.bad("damaged", f"HDU {name} is not an image")
        stop = shape[0] if stop is None else stop
        dtype = np.dtype(_BITPIX[hdu.get("BITPIX")])
        row_bytes = int(np.prod(shape[1:], dtype=object)) * dtype.itemsize
        data = self._read(hdu.data_start + start * row_bytes, (stop - start) * row_bytes)
        return np.frombuffer(data, dtype).reshape((stop - start, *shape[1:])), hdu

    def _verify(self, hdu, stated, whole):
        if hdu.end - hdu.data_start <= _KEPT_BYTES:
            self._kept = hdu.data_start, memoryview(self._read(hdu.data_start, hdu.end - hdu.data_start))
        header_sum = self._sum(hdu.start, hdu.data_start)
        data_sum = self._sum(hdu.data_start, hdu.end)
        if stated and (not str(stated).strip().isdecimal() or int(stated) != data_sum):
            raise self.bad("checksum", f"the data of HDU {hdu.name} do not match their DATASUM: the file is damaged")
        if whole and _add_ones_complement(header_sum, data_sum) not in (_ALL_ONES, 0):
            raise self.bad("checksum", f"HDU {hdu.name} does not match its CHECKSUM: the file is damaged")

    def _sum(self, start, stop):
        pieces = (self._read(offset, min(1 << 23, stop - offset)) for offset in range(start, stop, 1 << 23))
        return _add_ones_complement(*(int(sum_words(np.frombuffer(piece, "u4"))) for piece in pieces))

    def _read(self, offset, n_bytes):
        first, kept = self._kept
        if first <= offset and offset + n_bytes <= first + len(kept):
            return kept[offset - first : offset - first + n_bytes]
        try:
            self._file.seek(offset)
            data = self._file.read(n_bytes)
        except OSError as error:
            raise self.bad("unreadable", f"cannot be read at byte {offset}: {error}") from error
        if len(data) != n_bytes:
            raise self.bad("truncated", f"ends {n_bytes - len(data)} bytes too early")
        return data

    def _walk(self):
        hdus, start = {}, 0
        self._sniff()
        while start < self._size:
            number = len(hdus)
            cards, data_start = self._header(start, number)
            name = parse_value(cards.get("EXTNAME", b"''"))
            name = name.strip().upper() if isinstance(name, str) else ""
            hdu = Hdu(name or ("PRIMARY" if number == 0 else str(number)), cards, start, data_start, 0)
            n_bytes = self._data_bytes(hdu, number)
            end = data_start + -(-n_bytes // BLOCK) * BLOCK
            if end > self._size:
                missing = end - self._size
                raise self.bad(
                    "truncated",
                    f"HDU {hdu.name} states {n_bytes} bytes of data but the file ends {missing} bytes too early: "
                    "it is truncated, or its header is damaged",
                )
            if hdu.name in hdus:
                raise self.bad("damaged", f"has two HDUs named {hdu.name}")
            hdus[hdu.name] = hdu._replace(end=end)
            start = end
        return hdus

    def _sniff(self):
        if self._size == 0:
            raise self.bad("not_fits", "is empty (0 bytes)")
        first = self._read(0, min(self._size, 512))
        if first.startswith(b"SIMPLE  ="):
            return
        is_html = b"<html" in first.lower() or first.lstrip().lower().startswith(b"<!doctype")
        what = "is an HTML page, perhaps from a download that failed" if is_html else "does not begin with 'SIMPLE  ='"
        raise self.bad("not_fits", f"is not a FITS file: it {what}")

    def _header(self, start, number):
        cards, offset = {}, start
        for _ in range(_MAX_HEADER_BLOCKS):
            if offset + BLOCK > self._size:
                raise self.bad("truncated", f"ends within the header of HDU number {number}")
            block = self._read(offset, BLOCK)
            if block.translate(None, _PRINTABLE):
                raise self.bad("damaged", f"the header of HDU number {number} holds bytes that are not text")
            offset += BLOCK
            for i in range(0, BLOCK, 80):
                if block.startswith(b"END     ", i):
                    return cards, offset
                card = _CARD.match(block[i : i + 80])
                if card is None:
                    continue
                keyword = card[1].decode()
                if keyword in cards and _is_structural(keyword):
                    raise self.bad("damaged", f"the header of HDU number {number} states {keyword} twice")
                cards[keyword] = card[2]
            if not {"SIMPLE", "XTENSION"} & cards.keys():
                raise self.bad("damaged", f"what follows HDU number {number - 1} is not the header of another one")
        raise self.bad("damaged", f"the header of HDU number {number} has no end")

    def _data_bytes(self, hdu, number):
        first = hdu.get("SIMPLE") if number == 0 else hdu.get("XTENSION")
        if first is not True and not (number and isinstance(first, str)):
            raise self.bad("damaged", f"HDU number {number} does not say what it is")
        bitpix, n_axes = hdu.get("BITPIX"), hdu.get("NAXIS")
        if bitpix not in _BITPIX or not isinstance(n_axes, int) or not 0 <= n_axes <= 99:
            raise self.bad("damaged", f"HDU {hdu.name} states BITPIX {bitpix}, NAXIS {n_axes}")
        sizes = [*axes(hdu), hdu.get("PCOUNT", 0), hdu.get("GCOUNT", 1)]
        if any(type(size) is not int or size < 0 for size in sizes):
            raise self.bad("damaged", f"HDU {hdu.name} states a size that is not a whole number")
        *lengths, n_parameters, n_groups = sizes
        if n_groups != 1 or hdu.get("GROUPS") is True:
            raise self.bad("damaged", f"HDU {hdu.name} holds groups, which no survey file does")
        n_items = int(np.prod(lengths, dtype=object)) if lengths else 0
        return (n_items + n_parameters) * abs(bitpix) // 8


@contextmanager
def open_fits(path, *, with_checksums=True):
    """Open a FITS file and check its structure; no data is read.

    Parameters
    ----------
    path : str or path-like
        A file or an fsspec URL; gzip is recognised by its first bytes.
    with_checksums : bool, optional
        Verify each HDU before it is used, for which all of it is read. Without, one row of it is one short read, for
        who knows from elsewhere what should stand there.

    Yields
    ------
    FitsFile

    Raises
    ------
    BadFileError
        If the file cannot be read, is not FITS, or its size disagrees with its headers.
    """
    with open_bytes(path) as (file, size):
        yield FitsFile(str(path), *_unzipped(str(path), file, size), with_checksums)


def _unzipped(path, file, size):
    if file.read(2) != b"\x1f\x8b":
        return file, size
    file.seek(0)
    limit = max(_UNZIPPED_BYTES, 20 * size)
    try:
        with gzip.open(file) as stream:
            content = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BadFileError(path, "truncated", f"is a gzip file that cannot be unpacked: {error}") from error
    if len(content) > limit:
        raise BadFileError(path, "too_large", f"unpacks to more than {limit} bytes: unpack it by hand if that is right")
    return io.BytesIO(content), len(content)


def _is_structural(keyword):
    return keyword.startswith(("NAXIS", "BITPIX", "PCOUNT", "GCOUNT", "TFORM", "TTYPE", "XTENSION", "EXTNAME"))


def _add_ones_complement(*numbers):
    total = sum(numbers)
    while total > _ALL_ONES:
        total = (total & _ALL_ONES) + (total >> 32)
    return total
