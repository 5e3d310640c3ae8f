"""How fast DESI files become a store, beside plain reading of the same bytes: ``python -m benchmarks.ingest``.

The bytes that ingestion needs are flux, ivar and mask of the three cameras. They are read by astropy into arrays of the
machine's byte order, and as raw bytes, in the same run, one thread each; ingestion also verifies checksums, coadds the
cameras, sorts and writes. What a store needs beyond reading is timed alone too: its checksums and the disk.
About 75 ms of an ingest do not depend on the number of spectra (17 columns as arrays, the store opened to count its
rows): a fifth of the whole with 2,000 of them.
"""

import tempfile
from itertools import count
from pathlib import Path

import google_crc32c
import numpy as np
from astropy.io import fits

import astrolab as al
from benchmarks.timing import best_of_each, print_measured

PARTS = tuple(f"{camera}_{part}" for camera in "BRZ" for part in ("FLUX", "IVAR", "MASK"))


def main():
    """Print the rates and their ratios."""
    print_measured(measure, "{n_objects:,} simulated DESI spectra", n_objects=8000)


def measure(n_objects):
    """Return rates (spectra/s) and their ratios.

    Parameters
    ----------
    n_objects : int
        Spectra in the files.

    Returns
    -------
    dict
        Name to number.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths = al.write_desi_files(al.simulate_survey(n_objects, seed=0), root / "desi", progress=False)
        al.ingest_survey("desi", root / "desi", root / "spectra.zarr", progress=False)
        spectra = al.open_spectra(root / "spectra.zarr")
        chunks = [block.compute() for name in ("flux", "ivar") for block in spectra[name].data.to_delayed().ravel()]
        numbers = count()
        spent = best_of_each(
            {
                "plain reading by astropy": lambda: [_read_plainly(path) for path in paths],
                "reading of raw bytes": lambda: [_read_bytes(path) for path in paths],
                "checksums and writing": lambda: [_write_chunk(values, root) for values in chunks],
                "files to store": lambda: al.ingest_survey(
                    "desi", root / "desi", root / f"spectra-{next(numbers)}.zarr", progress=False
                ),
            }
        )
    figures = {f"{name}, spectra/s": n_objects / one.wall for name, one in spent.items()}
    plain, writing, whole = (
        spent[name] for name in ("plain reading by astropy", "checksums and writing", "files to store")
    )
    return figures | {
        "files": len(paths),
        "share of plain reading": plain.wall / whole.wall,
        "share of plain reading, in processor time": plain.processor / whole.processor,
        "share of plain reading, checksums and writing, in processor time": (plain.processor + writing.processor)
        / whole.processor,
    }


def _read_plainly(path):
    with fits.open(path, memmap=False) as file:
        return [np.ascontiguousarray(file[part].data, file[part].data.dtype.newbyteorder("=")) for part in PARTS]


def _write_chunk(values, folder):
    """Do with a chunk what every store with checksums must do, and nothing else."""
    with (folder / "chunk").open("wb") as file:
        file.write(values)
        file.write(google_crc32c.value(values).to_bytes(4, "little"))


def _read_bytes(path):
    with fits.open(path) as file, path.open("rb") as raw:
        for part in PARTS:
            info = file[part].fileinfo()
            raw.seek(info["datLoc"])
            raw.read(info["datSpan"])


if __name__ == "__main__":
    main()
