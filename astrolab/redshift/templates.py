"""Template sets: what galaxies, quasars and stars look like in the rest frame, and how far they may differ from that.

A set is a mean spectrum and a few vectors by which real objects differ from it. Each vector's amplitude has a Gaussian
prior, in units of the amplitude of the mean, so that a set cannot turn into something that no object looks like: the
scan then compares evidences and not bare χ², and needs no rule against negative light. Sets in Redrock's format have
free amplitudes.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import numpy as np
from astropy.io import fits
from safetensors import SafetensorError
from safetensors.numpy import load, save

from astrolab.lines import SPEED_OF_LIGHT

_OWN = files("astrolab.redshift") / "templates.safetensors"
_QUASARS = files("astrolab.redshift") / "quasars.safetensors"
_REDROCK_STEP = 1e-4
_STAR_LIMIT = 0.005  # 1500 km/s
STAR_SIGMA = 200 / SPEED_OF_LIGHT  # of halo stars, seen from a Sun that goes round
# where a Redrock file does not state its redshifts
_REDROCK_RANGES = {"STAR": (-_STAR_LIMIT, _STAR_LIMIT), "GALAXY": (-_STAR_LIMIT, 1.7), "QSO": (0.05, 6.0)}
_KEYS = (
    "spectype",
    "subtype",
    "log_first",
    "log_step",
    "redshift_min",
    "redshift_max",
    "scan_stride",
    "redshift_sigma",
)


@dataclass(frozen=True, eq=False)
class TemplateSet:
    """One set of templates.

    Attributes
    ----------
    spectype, subtype : str
        Class: QSO, GALAXY or STAR, or empty for a smooth spectrum that says nothing; and the kind within it.
    vectors : numpy.ndarray, shape (n_vector, n_rest), float64
        Flux per Å in any unit, rest frame, vacuum; the first is the mean.
    prior_err : numpy.ndarray, shape (n_vector,)
        Prior sigma of each vector's amplitude relative to the amplitude of the first; inf where it is free.
    log_first, log_step : float
        log10 of the first rest wavelength in Å, and the step of the grid.
    redshift_min, redshift_max : float
        The redshifts to try.
    scan_stride : int
        Coarse steps of the scan (207 km/s) from one redshift to the next: 1 for narrow lines, 2 for broad ones.
    redshift_sigma : float
        Sigma of a Gaussian prior on the redshift about 0, for stars: what has no lines is taken to be at rest, give or
        take that; infinite for none.
    """

    spectype: str
    subtype: str
    vectors: np.ndarray
    prior_err: np.ndarray
    log_first: float
    log_step: float
    redshift_min: float
    redshift_max: float
    scan_stride: int = 1
    redshift_sigma: float = np.inf

    @property
    def log_wavelength(self):
        """log10 of the rest wavelengths in Å, shape (n_rest,)."""
        return self.log_first + self.log_step * np.arange(self.vectors.shape[1])

    @property
    def redshift_volume(self):
        """-2 ln of the prior density at any one redshift, less that of a star at rest: what it costs to have a choice.

        A set that is right at one of many redshifts must beat one that could be right only here by more than chance.
        """
        width = self.redshift_max - self.redshift_min
        has_choice = width > 0 and np.isinf(self.redshift_sigma)
        return 2 * np.log(width / (np.sqrt(2 * np.pi) * STAR_SIGMA)) if has_choice else 0.0


def open_templates(path=None):
    """Open template sets.

    Parameters
    ----------
    path : str or pathlib.Path, optional
        A file in Redrock's format (``rrtemplate-*.fits``), a folder of them, or a ``.safetensors`` file of
        `save_templates`; by default AstroLab's own, whose card is `templates_card`.

    Returns
    -------
    tuple of TemplateSet
        Rest frame, vacuum wavelengths.

    Raises
    ------
    FileNotFoundError
        If there is nothing of that name.
    ValueError
        If a file is not a template file, or holds vectors that are not finite.

    References
    ----------
    Redrock's format: https://github.com/desihub/redrock-templates

    Examples
    --------
    >>> sorted({one.spectype for one in open_templates() if one.spectype})
    ['GALAXY', 'QSO', 'STAR']
    """
    if path is None:
        return _own_templates()
    path = Path(path)
    paths = sorted(path.glob("rrtemplate-*.fits")) if path.is_dir() else [path]
    if not paths or not paths[0].is_file():
        raise FileNotFoundError(
            f"no templates at '{path}', expected a folder of rrtemplate-*.fits or one of these files: "
            "open_templates() opens AstroLab's own."
        )
    if path.suffix == ".safetensors":
        return _parse(path.read_bytes(), path)
    return tuple(_read_redrock(one) for one in paths)


@lru_cache(maxsize=1)
def open_quasar_templates():
    """Open the sets that settle the redshifts of quasars: see `astrolab.redshift.settle`.

    Returns
    -------
    tuple of TemplateSet
        Learned from catalogued quasars; they are not scanned, for what they leave out are the rare ones.

    Raises
    ------
    ValueError
        If the file is damaged.

    Examples
    --------
    >>> [one.subtype for one in open_quasar_templates()]
    ['LOZ', 'MIDZ']
    """
    return _shipped(_QUASARS)


def save_templates(templates, path, card=None):
    """Save template sets as one safetensors file, with a card that says what they were made from.

    Parameters
    ----------
    templates : sequence of TemplateSet
        What to save; vectors are kept as float16 relative to their largest value.
    path : str or pathlib.Path
        File to write, ``.safetensors``; the card goes to the same name with ``.json``.
    card : dict, optional
        What to say about them.

    Raises
    ------
    ValueError
        If the name ends otherwise: `open_templates` knows the format by it.

    Examples
    --------
    >>> import astrolab as al, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     al.save_templates(al.open_templates()[:2], f"{folder}/two.safetensors", {"made_from": "AstroLab's own"})
    ...     len(al.open_templates(f"{folder}/two.safetensors"))
    2
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"save_templates got '{path}', expected a name that ends in .safetensors.")
    arrays, described = {}, []
    for i, one in enumerate(templates):
        scale = np.abs(one.vectors).max(axis=1)
        arrays[f"{i}.vectors"] = (one.vectors / scale[:, None]).astype("float16")
        arrays[f"{i}.scale"], arrays[f"{i}.prior_err"] = scale.astype("float64"), one.prior_err.astype("float64")
        described.append({key: getattr(one, key) for key in _KEYS})
    content = save(arrays, metadata={"templates": json.dumps(described)})
    path.write_bytes(content)
    sets = [f"{one.spectype or 'smooth'} {one.subtype}: {len(one.vectors)} vectors" for one in templates]
    card = (card or {}) | {"sets": sets, "sha256": sha256(content).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n")


def templates_card(path=_OWN):
    """Return the card of templates that AstroLab ships: by default of those that are scanned.

    Returns
    -------
    dict
        From what they were made, by which command, and the sha256 of the file.
    """
    return json.loads(path.with_suffix(".json").read_text())


@lru_cache(maxsize=1)
def _own_templates():
    return _shipped(_OWN)


def _shipped(path):
    content = path.read_bytes()
    if sha256(content).hexdigest() != templates_card(path)["sha256"]:
        raise ValueError(f"'{path}' is damaged: its sha256 is not the one of its card; install AstroLab again.")
    return _parse(content, path)


def _parse(content, path):
    try:
        arrays = load(content)
        length = int.from_bytes(content[:8], "little")
        described = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["templates"])
        sets = [
            TemplateSet(
                vectors=arrays[f"{i}.vectors"].astype("float64") * arrays[f"{i}.scale"][:, None],
                prior_err=arrays[f"{i}.prior_err"],
                **one,
            )
            for i, one in enumerate(described)
        ]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"'{path}' is not a file of template sets, expected one that save_templates wrote.") from error
    return tuple(_checked(one, path) for one in sets)


def _read_redrock(path):
    try:
        with fits.open(path) as hdus:
            header = hdus[0].header
            if "RRTYPE" not in header or header.get("NAXIS") != 2:
                raise OSError("no eigenvectors")
            vectors = np.asarray(hdus[0].data, "float64")
            spectype, subtype = header["RRTYPE"].strip(), header.get("RRSUBTYP", "").strip()
            own = header["CRVAL1"] + header["CDELT1"] * np.arange(vectors.shape[1])
            is_log = header.get("LOGLAM", False)
            tried = np.asarray(hdus["REDSHIFTS"].data, float) if "REDSHIFTS" in hdus else _REDROCK_RANGES.get(spectype)
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(
            f"'{path}' is not a Redrock template: expected eigenvectors and the keyword RRTYPE in its first HDU."
        ) from error
    if tried is None:
        raise ValueError(f"'{path}' is of RRTYPE '{spectype}', expected QSO, GALAXY or STAR.")
    log_own = np.asarray(own if is_log else np.log10(own), "float64")
    grid = np.arange(np.ceil(log_own[0] / _REDROCK_STEP), min(np.floor(log_own[-1] / _REDROCK_STEP), 40600))
    grid = grid * _REDROCK_STEP
    vectors = np.stack([np.interp(grid, log_own, vector) for vector in vectors])
    vectors /= np.sqrt(np.mean(vectors**2, axis=1, keepdims=True))
    free = np.full(len(vectors), np.inf)
    stride = 2 if spectype == "QSO" else 1
    limits = float(np.min(tried)), float(np.max(tried))
    return _checked(TemplateSet(spectype, subtype, vectors, free, grid[0], _REDROCK_STEP, *limits, stride), path)


def _checked(one, path):
    shapes_agree = one.vectors.ndim == 2 and one.prior_err.shape == one.vectors.shape[:1]
    if not shapes_agree or not np.isfinite(one.vectors).all() or not (one.prior_err > 0).all():
        raise ValueError(f"'{path}' holds template vectors or priors that are not finite or do not fit together.")
    return one
