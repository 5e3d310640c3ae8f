"""What the workers of the crash tests compute: slow enough to be killed, and each call leaves a line in a log."""

import os
import time
from pathlib import Path

import numpy as np

POISON = 777.0


def slow_rows(values, seconds, log_path):
    """Give two columns of each row; a row that begins with `POISON` kills the process."""
    if (values[:, 0] == POISON).any():
        os._exit(9)
    time.sleep(seconds)
    with Path(log_path).open("a") as log:
        log.write(f"{values[0, 0]:.6f}\n")
    return np.stack([np.sin(values).sum(axis=1), np.sqrt(values).mean(axis=1)], axis=1).astype("float32")


def rows(n_chunks, n_rows=8):
    """Give the input: as many rows a chunk."""
    return np.random.default_rng(0).random((n_chunks * n_rows, 5))
