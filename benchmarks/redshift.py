"""Speed and accuracy of classes and redshifts: ``python -m benchmarks.redshift``.

Accuracy on real labelled spectra where ``ASTROLAB_REAL_DATA`` names a folder of them, with every failure; the stars
that the shipped set ``mixed`` was learned from are also judged by sets learned without them, in five folds by object.
Speed on simulated spectra, one core, as a ratio to the matrix-product rate in the same run.
"""

import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar

import astrolab as al
from astrolab.readers import sdss
from astrolab.redshift.build import _mixed_stars, labelled_stars
from astrolab.redshift.classify import DELTA_CHI2_MIN, TEMPERATURE, class_probability
from astrolab.redshift.hypotheses import block_hypotheses, velocity_between
from astrolab.redshift.scan import BATCH, bin_spectra, clean_spectra, plan_all, scan_batch
from astrolab.redshift.templates import open_templates

LIMIT = {"QSO": 3000.0, "GALAXY": 1000.0, "STAR": 1000.0}  # km/s


def real_spectra(folder):
    """Labelled SDSS spectra as a Dataset, and their table of truth in the same order."""
    truth = pd.read_csv(Path(folder) / "sdss" / "truth.csv")
    spectra = al.read_sdss([str(Path(folder) / "sdss" / file) for file in truth["file"]])
    truth["targetid"] = [int(f"{p}{m:05d}{f:04d}") for p, m, f in truth[["plate", "mjd", "fiber"]].to_numpy()]
    return spectra, truth.set_index("targetid").loc[spectra["targetid"].values].reset_index()


def judged(answers, truth):
    """Answers beside their truth, with the columns is_near, is_class, is_right and velocity (km/s)."""
    table = answers.copy()
    for name in ("truth_class", "truth_z", "truth_source", "snr", "file", "object_group"):
        table[name] = truth[name].to_numpy()
    table["velocity"] = velocity_between(table["redshift"], table["truth_z"])
    table["is_near"] = table["velocity"] < table["truth_class"].map(LIMIT)
    table["is_class"] = table["spectype"] == table["truth_class"]
    table["is_right"] = table["is_near"] & table["is_class"]
    return table


def print_accuracy(table):
    """Print counts of each class, and every failure."""
    no_sky = table[table["truth_class"] != "SKY"]
    kinds = {
        "all": no_sky.index == no_sky.index,
        "strong": ~no_sky["truth_source"].str.contains("weak"),
        "inspected": no_sky["truth_source"].str.contains("visual"),
    }
    for kind, rows in kinds.items():
        counts = no_sky[rows].groupby("truth_class")[["is_near", "is_class", "is_right"]].agg(["sum", "size"])
        print(f"-- {kind}\n{counts.xs('sum', axis=1, level=1).assign(of=counts[('is_near', 'size')]).to_string()}")
    confident = table["redshift_warning"] & ~1 == 0
    sky = table["truth_class"] == "SKY"
    print(f"sky fibres with a confident redshift, not told that they are sky: {(confident & sky).sum()} of {sky.sum()}")
    n_wrong = (confident[~sky] & ~no_sky["is_right"]).sum()
    print(f"confident {(confident & ~sky).sum()} of {len(no_sky)}, of them wrong {n_wrong}")
    good = no_sky[no_sky["is_right"] & (no_sky["truth_class"] == "QSO")]
    signed = 299792.458 * (good["redshift"] - good["truth_z"]) / (1 + good["truth_z"])
    print(f"robust scatter of quasars {1.4826 * np.median(np.abs(signed - np.median(signed))):.0f} km/s")
    columns = ["file", "truth_class", "truth_z", "snr", "spectype", "subtype", "redshift", "redshift_warning"]
    print(no_sky.loc[~no_sky["is_right"], [*columns, "delta_chi2", "probability"]].to_string(index=False))


def held_out_stars(folder, spectra, truth):
    """Answers for the stars from sets whose ``mixed`` stars do not hold them."""
    table, *stars = labelled_stars(folder)
    others = tuple(one for one in open_templates() if one.subtype != "mixed")
    parts = []
    for fold in range(5):
        kept = (table["object_group"] % 5 != fold).to_numpy()
        mixed = _mixed_stars([one[kept] for one in stars], 390, np.random.default_rng(1))
        rows = np.flatnonzero((truth["truth_class"] == "STAR") & (truth["object_group"] % 5 == fold))
        if rows.size:
            answers = al.classify_spectra(spectra.isel(object=rows), [*others, mixed])
            parts.append(judged(answers, truth.iloc[rows]))
    return pd.concat(parts)


def print_calibration(n_objects=600, seed=5):
    """Print the temperature that makes simulated answers most likely, and how often answers are right."""
    spectra = al.simulate_survey(
        n_objects, seed=seed, rare_fraction=0, galaxy_fraction=0.3, star_fraction=0.2, sky_fraction=0
    )
    table = al.scan_redshifts(spectra)
    found = {
        name: table[name].to_numpy().reshape(n_objects, -1) for name in ("chi2", "chi2_smooth", "redshift", "spectype")
    }
    truth = spectra["truth_spectype"].values
    velocity = velocity_between(found["redshift"][:, 0], spectra["truth_redshift"].values)
    is_right = (velocity < pd.Series(truth).map(LIMIT).to_numpy()) & (found["spectype"][:, 0] == truth)

    def loss(log_temperature):
        p = np.clip(class_probability(found, np.exp(log_temperature)), 1e-3, 1 - 1e-3)
        return -np.mean(np.where(is_right, np.log(p), np.log(1 - p)))

    best = np.exp(minimize_scalar(loss, bounds=(-1, 4), method="bounded").x)
    print(f"SIMULATED: {is_right.mean():.1%} right of {n_objects}; best temperature {best:.2f}, in use {TEMPERATURE}")
    probability = class_probability(found)
    bins = pd.cut(probability, [0, 0.5, 0.7, 0.9, 0.99, 1.0])
    account = pd.DataFrame({"bin": bins, "stated": probability, "right": is_right})
    print(
        account.groupby("bin", observed=True).agg(
            n=("right", "size"), stated=("stated", "mean"), right=("right", "mean")
        )
    )


def print_speed(wavelength, name, n_objects=512):
    """Spectra per second on one core, whole engine and coarse scan, against the matrix-product rate."""
    torch.set_num_threads(1)
    survey = al.simulate_survey(n_objects, seed=2).load()
    flux = np.stack([np.interp(wavelength, survey["wavelength"], one) for one in survey["flux"].values]).astype(
        "float32"
    )
    ivar = np.stack([np.interp(wavelength, survey["wavelength"], one) for one in survey["ivar"].values]).astype(
        "float32"
    )
    templates = open_templates()
    block_hypotheses(flux[:2], ivar[:2], wavelength, templates, 5)
    start = time.perf_counter()
    block_hypotheses(flux, ivar, wavelength, templates, 5)
    whole = n_objects / (time.perf_counter() - start)
    binned = bin_spectra(*clean_spectra(flux[:BATCH], ivar[:BATCH], wavelength)[:2], wavelength)
    plans = plan_all(templates, wavelength)
    start = time.perf_counter()
    for plan in plans:
        scan_batch(*binned, plan)
    coarse = BATCH / (time.perf_counter() - start)
    n_redshift = sum(len(plan.redshift) for plan in plans)
    flops = 2 * binned[0].shape[1] * sum(len(plan.redshift) * len(plan.vectors) for plan in plans)
    square = torch.rand(1536, 1536)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        square @ square
        times.append(time.perf_counter() - start)
    peak = 2 * 1536**3 / np.median(times)
    print(
        f"{name}: {whole:.0f} spectra/s a core, scan and refinement of {len(templates)} sets, {n_redshift} redshifts; "
        f"coarse scan {coarse:.0f}, its products {coarse * flops / 1e9:.0f} GFLOP/s = {coarse * flops / peak:.0%} of "
        f"the matrix-product rate in this run ({peak / 1e9:.0f}); whole engine {whole * flops / peak:.0%}"
    )


def main():
    """Print accuracy, calibration and speed."""
    folder = os.environ.get("ASTROLAB_REAL_DATA")
    if folder:
        spectra, truth = real_spectra(folder)
        print("== AstroLab's templates on real spectra")
        print_accuracy(judged(al.classify_spectra(spectra), truth))
        stars = held_out_stars(folder, spectra, truth)
        n_class, n_near = stars["is_class"].sum(), stars["is_near"].sum()
        print(f"-- stars held out of the set 'mixed': class {n_class}, redshift {n_near} of {len(stars)}")
        if (Path(folder) / "redrock-templates").is_dir():
            print("== Redrock's templates in the same engine")
            redrock = open_templates(Path(folder) / "redrock-templates")
            smooth = [one for one in open_templates() if not one.spectype]
            print_accuracy(judged(al.classify_spectra(spectra, [*redrock, *smooth]), truth))
    else:
        print("ASTROLAB_REAL_DATA is not set: accuracy on real spectra was not measured")
    print(f"== Simulated (threshold of delta_chi2 {DELTA_CHI2_MIN:.0f})")
    print_calibration()
    print("== Speed")
    print_speed(al.simulate_survey(1)["wavelength"].values, "DESI grid")
    print_speed(sdss.WAVELENGTH, "SDSS grid")


if __name__ == "__main__":
    main()
