"""The sample: real spectra with their truth, in two folds that never share an object."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from astrolab.lines import SPEED_OF_LIGHT
from astrolab.medians import median_snr
from astrolab.readers.desi import read_desi
from astrolab.readers.sdss import read_sdss
from astrolab.schema import OBJECT, WAVELENGTH, WAVELENGTH_REST
from astrolab.simulation.survey import simulate_survey
from astrolab.spectra import to_restframe

ORDINARY, RARE, ARTEFACT, APART = "ordinary", "rare", "artefact", "apart"

# what a class of the real table is: BALs are 15-20 % of quasars and stand apart from the rare
KINDS = {"changing_look": RARE, "coronal": RARE, "type_II": RARE, "star": RARE, "galaxy": RARE, "bal": APART,
         "wrong_redshift": APART, "sky": ARTEFACT}  # fmt: skip

_TAGS = {"sky fibre": "sky", "changing-look": "changing_look", "coronal-line": "coronal", "BAL": "bal"}
_WRONG = 3000.0  # km/s


@dataclass(frozen=True)
class Sample:
    """Spectra with truth.

    Attributes
    ----------
    spectra : xarray.Dataset
        In memory, dims ``(object, wavelength)``, observed frame, with the pipeline's redshifts.
    truth : pandas.DataFrame
        One row an object: ``targetid``, ``truth`` (a class of `KINDS`, or '' for an ordinary quasar), ``group``
        (repeats of one object share it), ``fold`` (0 or 1).
    label : str
        ``"real"`` or ``"simulated"``.
    n_left_out : dict
        Spectra left out, by reason.
    """

    spectra: xr.Dataset
    truth: pd.DataFrame
    label: str
    n_left_out: dict

    def rows(self, keep):
        """Return spectra and truth of the objects where `keep` is true."""
        return self.spectra.isel({OBJECT: np.flatnonzero(keep)}), self.truth[keep].reset_index(drop=True)


def real_sample(folder):
    """Read the real spectra and say what each is.

    Spectra of weak truth are left out, as are quasars of no place among ordinary or rare ones (a redshift above 4).
    Two epochs of one object stay, in one fold; one quasar
    has thirteen. DESI's spectra are brought onto SDSS's grid, flux and variance conserved.

    Parameters
    ----------
    folder : path-like
        With ``sdss/truth.csv`` and ``desi/truth.csv`` as their README describes them.

    Returns
    -------
    Sample
    """
    folder = Path(folder)
    sdss, truth, left_out = _sdss(folder / "sdss")
    desi, truth_desi, left_out_desi = _desi(folder / "desi", sdss[WAVELENGTH].values)
    columns = [name for name in sdss.coords if name in desi.coords and name != WAVELENGTH]
    names = ["flux", "ivar", *columns]
    spectra = xr.concat(
        [one.reset_coords()[names].set_coords(columns) for one in (sdss, desi)], dim=OBJECT, combine_attrs="drop"
    )
    truth = pd.concat([truth, truth_desi], ignore_index=True)
    return _sample(spectra, truth, "real", left_out | left_out_desi)


def simulated_sample(n_objects=300, seed=0):
    """Simulate a sample where there are no real spectra, a tenth of it rare; supports no claim about the sky.

    Parameters
    ----------
    n_objects : int, optional
        Quasars and others.
    seed : int, optional
        Seed of the survey.

    Returns
    -------
    Sample
    """
    spectra = simulate_survey(n_objects, seed=seed, rare_fraction=0.15).compute()
    spectra = spectra.isel({OBJECT: np.isfinite(spectra["redshift"].values) & spectra["is_target"].values})
    truth_class = spectra["truth_spectype"].values.astype(str)
    family = spectra["truth_rare"].values.astype(str)
    named = np.where(family != "", family, np.where(truth_class == "QSO", "", np.char.lower(truth_class)))
    truth = pd.DataFrame({"targetid": spectra["targetid"].values, "truth": named, "group": range(len(named))})
    return _sample(spectra, truth, "simulated", {})


def kind_of(name):
    """Return what a class counts as: ordinary, rare, artefact, or apart (reported, in no average)."""
    if name == "":
        return ORDINARY
    if name in ("cosmic_ray", "sky_residual", "arm_step", "dead_amplifier"):
        return ARTEFACT
    return KINDS.get(name, RARE)


def _sample(spectra, truth, label, left_out):
    spectra = spectra.compute()
    if "snr" not in spectra.coords:
        snr = median_snr(spectra["flux"].values, spectra["ivar"].values)
        spectra = spectra.assign_coords(snr=(OBJECT, snr))
    truth = truth.assign(fold=_folds(truth))
    return Sample(spectra, truth, label, left_out)


def _folds(truth):
    """Split each class in halves by a hash of the object, so that its repeats never straddle."""
    groups = truth.drop_duplicates("group").copy()
    groups["hash"] = [hashlib.sha256(str(group).encode()).hexdigest() for group in groups["group"]]
    groups = groups.sort_values("hash")
    fold = groups.groupby("truth").cumcount() % 2
    return truth["group"].map(dict(zip(groups["group"], fold, strict=True))).to_numpy()


def _sdss(folder):
    truth = pd.read_csv(folder / "truth.csv")
    numbers = zip(truth["plate"], truth["mjd"], truth["fiber"], strict=True)
    truth.index = [int(f"{plate}{mjd:05d}{fiber:04d}") for plate, mjd, fiber in numbers]
    spectra = read_sdss(folder)
    truth = truth.loc[spectra["targetid"].values]
    tag = truth["tag"].fillna("")
    named = np.where(truth["truth_class"] == "QSO", "", truth["truth_class"].str.lower())
    dv = SPEED_OF_LIGHT * np.abs(spectra["redshift"].values - truth["truth_z"]) / (1 + truth["truth_z"])
    named = np.where((named == "") & (dv > _WRONG), "wrong_redshift", named)
    named = np.where(truth["bal"] == 1, "bal", named)
    named = np.where(truth["source"] == "sdss-misc-typeII", "type_II", named)
    for start, name in _TAGS.items():
        named = np.where(tag.str.startswith(start), name, named)
    is_weak = truth["truth_source"].str.contains("weak") & (named != "sky")
    is_far = (tag == "z>4") | ((named == "") & (truth["truth_z"] > 4))
    is_third = (truth.groupby("object_group").cumcount() >= 2) & ~is_weak & ~is_far
    keep = ~(is_weak | is_far | is_third).to_numpy() & np.isfinite(spectra["redshift"].values)
    reasons = {"weak truth": is_weak, "redshift above 4": is_far & ~is_weak, "third or later epoch": is_third}
    left_out = {f"SDSS, {reason}": int(which.sum()) for reason, which in reasons.items()}
    table = pd.DataFrame(
        {"targetid": truth.index, "truth": named, "group": "sdss-" + truth["object_group"].astype(str)}
    )
    return spectra.isel({OBJECT: np.flatnonzero(keep)}), table[keep].reset_index(drop=True), left_out


def _desi(folder, wavelength):
    truth = pd.read_csv(folder / "truth.csv").set_index("targetid")
    spectra = read_desi(sorted(map(str, folder.glob("coadd-*.fits"))))
    truth = truth.loc[spectra["targetid"].values]
    known = truth["truth_class"].notna().to_numpy()
    spectra, truth = spectra.isel({OBJECT: np.flatnonzero(known)}).compute(), truth[known]
    # the catalogue's redshifts stand in where no redrock file lies beside; rebinned as if at redshift 0
    rebinned = to_restframe(spectra.assign_coords(redshift=(OBJECT, np.zeros(len(truth)))), wavelength)
    rebinned = rebinned.rename({WAVELENGTH_REST: WAVELENGTH})
    rebinned = rebinned.assign_coords(redshift=(OBJECT, truth["truth_z"].to_numpy(float)))
    named = np.where(truth["truth_class"] == "QSO", "", truth["truth_class"].str.lower())
    table = pd.DataFrame({"targetid": truth.index, "truth": named, "group": truth.index.astype(str)})
    return rebinned, table, {"DESI, no redshift (sky and blank fibres)": int((~known).sum())}
