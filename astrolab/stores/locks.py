"""A lock that goes with the process that holds it, however that ends."""

import os
import sys


def try_lock(file):
    """Lock an open file until it is closed.

    Parameters
    ----------
    file : file object
        Open; on a file system that knows locks.

    Returns
    -------
    bool
        False where another process holds it, or has taken the file away meanwhile: that one would hold nobody off.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file, open(file.name) as other:
    ...     try_lock(file), try_lock(other)
    (True, False)
    """
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(file.fileno()).st_nlink > 0
