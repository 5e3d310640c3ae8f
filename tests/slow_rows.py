"""What the workers of the crash tests compute: slow enough to be killed, and each call leaves a line in a log."""

import os
import time
from pathlib import Path

import numpy as np

POISON = 777.0


def slow_rows(values, seconds, log_path, limit_path=None):
    """Give two columns of each row; a row that begins with `POISON` kills the process.

    As long as the log has as many lines as the file `limit_path` says, the next call waits: whoever kills the process
    meanwhile knows exactly what it has done.
    """
    if (values[:, 0] == POISON).any():
        os._exit(9)
    while limit_path and len(Path(log_path).read_text().splitlines()) >= int(Path(limit_path).read_text() or 0):
        time.sleep(0.05)
    time.sleep(seconds)
    with Path(log_path).open("a") as log:
        log.write(f"{values[0, 0]:.6f}\n")
    return np.stack([np.sin(values).sum(axis=1), np.sqrt(values).mean(axis=1)], axis=1).astype("float32")


def rows(n_chunks, n_rows=8):
    """Give the input: as many rows a chunk."""
    return np.random.default_rng(0).random((n_chunks * n_rows, 5))
