"""Chunk products: what one chunk of a long pass gave, in a file that proves itself.

A file holds arrays, a key (the hash of what they depend on) and a seal (the sha256 of all of it), and stands under its
name only when it is whole and on disk. What is done is known by verifying files; no table has to be believed.
"""

import json
from functools import cache
from hashlib import file_digest, sha256
from importlib.resources import files
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from astrolab.stores.publish import write_whole

SUFFIX = ".chunk"


class ChunkError(ValueError):
    """A chunk product is damaged."""


def save_chunk(path, arrays, key, **about):
    """Save a chunk product.

    Parameters
    ----------
    path : path-like
        File to write; its folder is made.
    arrays : dict of str to numpy.ndarray
        The product.
    key : str
        Hash of what it depends on, as `chunk_key` gives it.
    **about
        What else to remember; JSON values.

    Raises
    ------
    OSError
        If it cannot be written; then nothing stands under the name that did not before.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_chunk(f"{folder}/one.chunk", {"score": np.ones(2)}, chunk_key("a model", 0), n_rows=2)
    ...     arrays, about = load_chunk(f"{folder}/one.chunk", chunk_key("a model", 0))
    >>> arrays["score"], about
    (array([1., 1.]), {'n_rows': 2})
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    text = json.dumps(about, sort_keys=True)
    metadata = {"key": key, "about": text, "sha256": _seal(arrays, key, text)}
    write_whole(path, save(arrays, metadata=metadata))


def load_chunk(path, key=None):
    """Load a chunk product, verified.

    Parameters
    ----------
    path : path-like
        The file.
    key : str, optional
        The key it must have; without it, any.

    Returns
    -------
    arrays : dict of str to numpy.ndarray
    about : dict
        Or None: there is no such file, or it has another key.

    Raises
    ------
    ChunkError
        If the file is damaged.
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a dict
        is_whole = metadata["sha256"] == _seal(arrays, metadata["key"], metadata["about"])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise ChunkError(f"'{path}' is damaged: {error}; delete it, and it is made again.") from error
    if not is_whole:
        raise ChunkError(f"'{path}' is damaged: its sha256 differs; delete it, and it is made again.")
    return (arrays, json.loads(metadata["about"])) if key in (None, metadata["key"]) else None


def chunk_key(*parts):
    """Return the key of a chunk product: a hash of this AstroLab's code and of whatever else it depends on.

    Parameters
    ----------
    *parts
        Strings, numbers, and lists and dicts of them.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    return sha256(json.dumps([code_hash(), *parts], sort_keys=True).encode()).hexdigest()


@cache
def code_hash():
    """Return the sha256 of the code of this AstroLab: of every source file of the package, as installed.

    Returns
    -------
    str
        Another one after any change, also one that is not committed.
    """
    root = Path(str(files("astrolab")))
    digest = sha256()
    for path in sorted(root.rglob("*.py")):
        with path.open("rb") as file:
            digest.update(f"{path.relative_to(root).as_posix()} {file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _seal(arrays, key, text):
    digest = sha256(f"{key}\n{text}\n".encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}\n".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
