"""Find and open survey files: a file, a folder, a glob, an fsspec URL, or a list of these."""

import glob
import os
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from pathlib import Path

import fsspec

FITS_SUFFIXES = (".fits", ".fit", ".fts", ".fits.gz", ".fit.gz", ".fts.gz", ".fz")
_REMOTE_BLOCK_BYTES = 1 << 20  # headers are read in jumps: the 50 MB that s3fs reads ahead would fetch whole files


class BadFileError(ValueError):
    """A file is damaged, or is not what the reader expects.

    Attributes
    ----------
    path : str
        The file.
    code : str
        One word for machines, such as ``"truncated"``, ``"checksum"``, ``"missing_hdu"``.
    reason : str
        One sentence for people.
    """

    def __init__(self, path, code, reason):
        super().__init__(path, code, reason)
        self.path, self.code, self.reason = path, code, reason

    def __str__(self):
        return f"{self.path}: {self.reason}"


def find_files(path):
    """Return the FITS files that a path names.

    Parameters
    ----------
    path : str, path-like, or a list of these
        A file (taken whatever its name), a folder (every FITS file below it, by its name or, where the name does not
        say, by its first bytes), a glob, or an fsspec URL of any of these.

    Returns
    -------
    list of str
        Paths or URLs, each once, in order; those of one folder or glob are sorted.

    Raises
    ------
    FileNotFoundError
        If a path does not exist, or names a folder or glob without any FITS file.
    ImportError
        If a URL needs a package that is not installed.
    """
    if isinstance(path, (list, tuple)):
        found = dict.fromkeys(file for one in path for file in find_files(one))
        if not found:
            raise FileNotFoundError("no source was given, expected a file, a folder, a glob or a URL.")
        return list(found)
    path = os.fspath(path)
    found = _find_remote(path) if "://" in path else _find_local(path)
    if not found:
        raise FileNotFoundError(
            f"'{path}' holds no FITS file; name a file, a folder or a glob such as 'folder/*.fits'."
        )
    return found


@contextmanager
def open_bytes(path):
    """Open a file or URL for reading bytes.

    Parameters
    ----------
    path : str or path-like
        Local path or fsspec URL.

    Yields
    ------
    file : file object
        Seekable, at its beginning.
    size : int
        Bytes in it.

    Raises
    ------
    BadFileError
        If it cannot be opened.
    """
    path = os.fspath(path)
    with ExitStack() as stack:
        try:
            if "://" in path:
                fs, inside = filesystem(path)
                file = stack.enter_context(fs.open(inside, "rb", block_size=_REMOTE_BLOCK_BYTES))
                size = fs.size(inside)
            else:
                file = stack.enter_context(Path(path).open("rb"))
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise BadFileError(path, "unreadable", f"cannot be opened: {error}") from error
        yield file, size


def exists(path):
    """Say whether there is a file.

    Parameters
    ----------
    path : str
        Local path or fsspec URL.

    Returns
    -------
    bool
    """
    if "://" not in path:
        return Path(path).is_file()
    fs, inside = filesystem(path)
    return fs.exists(inside)


def filesystem(url):
    """Return the fsspec file system of a URL and the path inside it.

    Options come from fsspec's own configuration (such as FSSPEC_S3_ENDPOINT_URL) and the usual AWS variables; where
    there are no AWS credentials at all, S3 is read anonymously.

    Parameters
    ----------
    url : str
        fsspec URL.

    Returns
    -------
    tuple of fsspec.AbstractFileSystem and str

    Raises
    ------
    ImportError
        If the package behind the protocol is not installed.
    """
    is_s3 = url.startswith(("s3://", "s3a://"))
    try:
        options = {"anon": True} if is_s3 and _is_anonymous() else {}
        return fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        hint = 'pip install "astrolab-research[s3]"' if is_s3 else str(error)
        raise ImportError(f"'{url}' needs a package that is not installed: {hint}") from error


@lru_cache
def _is_anonymous():
    from botocore.session import get_session

    is_configured = {"anon", "key", "secret", "token", "profile"} & fsspec.config.conf.get("s3", {}).keys()
    return not is_configured and get_session().get_credentials() is None


def _find_local(path):
    if Path(path).is_file():
        return [path]
    if Path(path).is_dir():
        below = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)  # noqa: PTH118
        return sorted(file for file in below if _is_fits(file, lambda name: Path(name).open("rb")))
    if glob.has_magic(path):
        matches = sorted(glob.glob(path, recursive=True))  # noqa: PTH207
        return list(dict.fromkeys(file for match in matches for file in _find_local(match)))
    raise FileNotFoundError(f"there is no file or folder '{path}'; a glob such as 'folder/*.fits' is taken too.")


def _find_remote(url):
    fs, inside = filesystem(url)
    fs.invalidate_cache()
    if fs.isfile(inside):
        return [url]
    names = fs.find(inside) if fs.isdir(inside) else fs.glob(inside) if glob.has_magic(inside) else None
    if names is None:
        raise FileNotFoundError(f"there is no file or folder '{url}'; a glob such as '{url}/*.fits' is taken too.")
    found = sorted(name for name in names if _is_fits(name, partial(fs.open, block_size=_REMOTE_BLOCK_BYTES)))
    return [fs.unstrip_protocol(name) for name in found]


def _is_fits(name, open_file):
    if name.lower().endswith(FITS_SUFFIXES):
        return True
    with open_file(name) as file:
        return file.read(9) == b"SIMPLE  ="
