"""Speed and accuracy of classes and redshifts: ``python -m benchmarks.redshift``.

Accuracy on real labelled spectra where ``ASTROLAB_REAL_DATA`` names a folder of them, with every failure: scan alone,
network alone, and together, of all and of the objects that the network was neither trained nor calibrated on; and the
whole engine by parts that have not seen the object judged (`benchmarks.redshift_held_out`). Broad absorption injected
into real quasars; calibration and coverage on simulated spectra.

Speed on simulated spectra, one core, in processor time, as a ratio to the matrix-product rate in the same run
(``--speed`` alone); with ``--growth 1000 10000 100000`` how rate and memory grow with the store.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import astrolab as al
from astrolab.lines import SPEED_OF_LIGHT
from astrolab.readers import sdss
from astrolab.redshift.candidates import HYPOTHESIS, velocity_between
from astrolab.redshift.hypotheses import _SPECTRUM, block_hypotheses
from astrolab.redshift.scan import BATCH, bin_spectra, clean_spectra, plan_all, scan_batch
from astrolab.redshift.templates import open_quasar_templates, open_templates
from astrolab.redshift.train_classifier import calibration_error
from astrolab.redshift.training_spectra import part_of
from astrolab.simulation.injections import smooth_spectra
from astrolab.simulation.rare import inject_bal
from benchmarks.redshift_growth import print_growth, product_rate, scan_flops
from benchmarks.redshift_held_out import held_out_answers

FIRST_REDSHIFT = len(_SPECTRUM) + HYPOTHESIS.index("redshift")  # column of a block
LIMIT = {"QSO": 3000.0, "GALAXY": 1000.0, "STAR": 1000.0}  # km/s


def real_spectra(folder):
    """Labelled SDSS spectra as a Dataset, and their table of truth in the same order."""
    truth = pd.read_csv(Path(folder) / "sdss" / "truth.csv")
    spectra = al.read_sdss([str(Path(folder) / "sdss" / file) for file in truth["file"]])
    truth["targetid"] = [int(f"{p}{m:05d}{f:04d}") for p, m, f in truth[["plate", "mjd", "fiber"]].to_numpy()]
    return spectra, truth.set_index("targetid").loc[spectra["targetid"].values].reset_index()


def judged(answers, truth):
    """Answers beside their truth, with the columns is_near, is_class, is_right and velocity (km/s)."""
    table = answers.copy().reset_index(drop=True)
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
    print_scatter(no_sky)
    columns = ["file", "truth_class", "truth_z", "snr", "spectype", "subtype", "redshift", "redshift_warning"]
    print(no_sky.loc[~no_sky["is_right"], [*columns, "delta_chi2", "probability"]].to_string(index=False))


def print_scatter(table):
    """Print the robust scatter of quasars' redshifts about the table's: of all, near and far."""
    good = table[table["is_near"] & (table["truth_class"] == "QSO")]
    signed = SPEED_OF_LIGHT * (good["redshift"] - good["truth_z"]) / (1 + good["truth_z"])
    parts = {"quasars": signed == signed, "below redshift 1.3": good["truth_z"] < 1.3, "beyond": good["truth_z"] >= 1.3}
    for name, rows in parts.items():
        off = signed[rows] - signed[rows].median()
        print(
            f"robust scatter of {name}: {1.4826 * off.abs().median():.0f} km/s about {signed[rows].median():+.0f} "
            f"({rows.sum()})"
        )


def print_shares(table):
    """Print right class and redshift: scan alone, network alone, together; of all, and of objects held out."""
    known = table[(table["truth_class"] != "SKY") & ~table["truth_source"].str.contains("weak")]
    limit = known["truth_class"].map(LIMIT)
    is_held_out = part_of(known["object_group"]) == "held out"
    for name, rows in (("all", is_held_out | True), ("held out of the network", is_held_out)):
        counts = {}
        for source, end in (("scan", "_scan"), ("network", "_network"), ("together", "")):
            is_near = velocity_between(known[f"redshift{end}"], known["truth_z"]) < limit
            is_class = known[f"spectype{end}"] == known["truth_class"]
            own = pd.DataFrame({"class": is_class, "near": is_near, "both": is_class & is_near})[rows]
            counts[source] = own.groupby(known["truth_class"][rows]).sum()
        both = pd.concat(counts, axis=1)
        both[("of", "")] = known["truth_class"][rows].value_counts()
        print(f"-- strong truth, {name}\n{both.to_string()}")
    stated, is_right = known["probability"].to_numpy(), known["is_right"].to_numpy()
    error = calibration_error(stated[is_held_out], is_right[is_held_out])
    print(f"expected calibration error of the answers, held out: {error:.3f} of {is_held_out.sum()}")


def print_absorbed(spectra, truth):
    """Print how often broad absorption injected into real quasars leads the redshift astray by 3,000 km/s."""
    is_quasar = (truth["truth_class"] == "QSO") & truth["truth_z"].between(1.6, 3.5) & (truth["bal"] != 1)
    rows = np.flatnonzero(is_quasar & ~truth["truth_source"].str.contains("weak"))
    own, redshift = spectra.isel(object=rows).load(), truth["truth_z"].to_numpy()[rows]
    flux, wavelength = own["flux"].values, own["wavelength"].values
    signal = smooth_spectra(flux, own["ivar"].values, wavelength)
    is_held_out = part_of(truth["object_group"].to_numpy()[rows]) == "held out"
    for kind in ("HI", "LO", "FELO"):
        failed = []
        for seed in range(2):
            rng = np.random.default_rng([seed, len(kind)])
            absorbed = inject_bal(flux, wavelength, redshift, rng, kind=kind, signal=signal).astype("float32")
            one = own.assign(flux=(own["flux"].dims, absorbed))
            answers = [al.classify_spectra(one, with_network=with_network) for with_network in (False, True)]
            found = [answers[0]["redshift"], answers[1]["redshift_network"], answers[1]["redshift"]]
            failed.append([velocity_between(z, redshift) > 3000 for z in found])
        failed = np.concatenate(failed, axis=1)
        every, held = failed.sum(axis=1), failed[:, np.tile(is_held_out, 2)].sum(axis=1)
        print(
            f"{kind}: scan fails {every[0]}, network alone {every[1]}, together and refitted {every[2]} of "
            f"{failed.shape[1]}; held out {held[0]}, {held[1]}, {held[2]} of {2 * is_held_out.sum()}"
        )


def print_held_out(answers, held_out):
    """Print counts in sample and held out of every learned part, and the failures held out."""
    counts = {}
    for name, table in (("shipped", answers), ("held out", held_out)):
        own = table[table["truth_class"] != "SKY"]
        counts[name] = own.groupby("truth_class")[["is_class", "is_near", "is_right"]].sum()
    both = pd.concat(counts, axis=1)
    both[("of", "")] = answers["truth_class"].value_counts()
    print(both.to_string())
    confident = held_out["redshift_warning"] & ~1 == 0
    sky = held_out["truth_class"] == "SKY"
    n_wrong = (confident & ~sky & ~held_out["is_right"]).sum()
    print(
        f"held out: confident {(confident & ~sky).sum()}, of them wrong {n_wrong}; sky fibres {(confident & sky).sum()}"
    )
    columns = ["file", "truth_class", "truth_z", "snr", "spectype", "subtype", "redshift", "redshift_warning"]
    print(held_out.loc[~sky & ~held_out["is_right"], [*columns, "delta_chi2", "probability"]].to_string(index=False))


def print_settled(spectra, truth, held_out):
    """Print the scatter of quasars before redshifts are settled, and settled by sets that do not hold them."""
    own = spectra["flux"].values, spectra["ivar"].values, spectra["wavelength"].values
    before = block_hypotheses(*own, open_templates(), n_best=1, with_network=True)
    scanned = pd.DataFrame({"spectype": "QSO", "redshift": before[:, FIRST_REDSHIFT]})
    for name, answers in (("by the scan's own sets", judged(scanned, truth)), ("settled, held out", held_out)):
        print(f"-- {name}")
        print_scatter(answers)
    good = held_out[held_out["is_near"] & (held_out["truth_class"] == "QSO")]
    for level in (0.68, 0.95):
        low, high = al.redshift_intervals(good, level)
        inside = (low <= good["truth_z"]) & (good["truth_z"] <= high)
        print(f"intervals of {level:.0%}, held out: the table's redshift is in {inside.mean():.1%} of {len(good)}")


def print_calibration(n_objects=768, seed=5):
    """Print how often simulated answers are right, beside their stated probability, and what intervals contain."""
    spectra = al.simulate_survey(
        n_objects, seed=seed, rare_fraction=0, galaxy_fraction=0.3, star_fraction=0.2, sky_fraction=0
    )
    table = al.classify_spectra(spectra)
    truth, redshift = spectra["truth_spectype"].values, spectra["truth_redshift"].values
    is_near = velocity_between(table["redshift"], redshift) < pd.Series(truth).map(LIMIT)
    is_right = (is_near & (table["spectype"] == truth)).to_numpy()
    probability = table["probability"].to_numpy()
    error = calibration_error(probability, is_right)
    print(f"SIMULATED: {is_right.mean():.1%} right of {n_objects}; expected calibration error {error:.3f}")
    bins = pd.cut(probability, [0, 0.5, 0.7, 0.9, 0.97, 1.0])
    account = pd.DataFrame({"bin": bins, "stated": probability, "right": is_right})
    print(
        account.groupby("bin", observed=True).agg(
            n=("right", "size"), stated=("stated", "mean"), right=("right", "mean")
        )
    )
    good = is_right & (table["redshift_warning"] == 0).to_numpy()
    for level in (0.68, 0.95):
        low, high = al.redshift_intervals(table, level)
        inside = (low <= redshift) & (redshift <= high)
        own = {name: f"{inside[good & (truth == name)].mean():.3f}" for name in LIMIT}
        print(f"intervals of {level:.0%} contain the truth in {inside[good].mean():.1%} of {good.sum()}: {own}")


def print_speed(wavelength, name, n_objects=512):
    """Print spectra per second of processor time, whole engine and coarse scan, beside the matrix-product rate."""
    torch.set_num_threads(1)
    survey = al.simulate_survey(n_objects, seed=2).load()
    flux = np.stack([np.interp(wavelength, survey["wavelength"], one) for one in survey["flux"].values]).astype(
        "float32"
    )
    ivar = np.stack([np.interp(wavelength, survey["wavelength"], one) for one in survey["ivar"].values]).astype(
        "float32"
    )
    templates = open_templates()
    rates = []
    for options in ({}, {"with_network": True, "settling": open_quasar_templates()}):
        block_hypotheses(flux[:2], ivar[:2], wavelength, templates, 5, **options)
        start = time.process_time()
        block_hypotheses(flux, ivar, wavelength, templates, 5, **options)
        rates.append(n_objects / (time.process_time() - start))
    binned = bin_spectra(*clean_spectra(flux[:BATCH], ivar[:BATCH], wavelength)[:2], wavelength)
    plans = plan_all(templates, wavelength)
    start = time.process_time()
    for plan in plans:
        scan_batch(*binned, plan)
    coarse = BATCH / (time.process_time() - start)
    flops, peak = scan_flops(wavelength), product_rate()
    print(
        f"{name}: {rates[0]:.0f} spectra a second of processor time, scan and refinement of {len(templates)} sets, "
        f"{sum(len(plan.redshift) for plan in plans)} redshifts ({rates[1]:.0f} with network, refits and settled "
        f"quasars); coarse scan {coarse:.0f}, its products {coarse * flops / 1e9:.0f} GFLOP/s = "
        f"{coarse * flops / peak:.0%} of the matrix-product rate in this run ({peak / 1e9:.0f}); whole engine "
        f"{rates[0] * flops / peak:.0%}, {rates[1] * flops / peak:.0%}"
    )


def main():
    """Print accuracy, calibration, coverage and speed; or how speed and memory grow."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--growth", type=int, nargs="+", help="sizes of stores, such as 1000 10000 100000, and no more")
    parser.add_argument("--speed", action="store_true", help="speed, and no more")
    options = parser.parse_args()
    if options.growth:
        print_growth(options.growth)
        return
    if not options.speed:
        print_quality()
    print("== Speed")
    print_speed(al.simulate_survey(1)["wavelength"].values, "DESI grid")
    print_speed(sdss.WAVELENGTH, "SDSS grid")


def print_quality():
    """Print accuracy, calibration and coverage."""
    folder = os.environ.get("ASTROLAB_REAL_DATA")
    if folder:
        spectra, truth = real_spectra(folder)
        print("== AstroLab's templates on real spectra")
        answers = judged(al.classify_spectra(spectra), truth)
        print_accuracy(answers)
        print_shares(answers)
        print("== The same, every learned part held out")
        held_out = judged(held_out_answers(folder, spectra, truth), truth)
        print_held_out(answers, held_out)
        print("== Redshifts of quasars")
        print_settled(spectra, truth, held_out)
        print("== Broad absorption injected into real quasars: redshifts wrong by more than 3,000 km/s")
        print_absorbed(spectra, truth)
        if (Path(folder) / "redrock-templates").is_dir():
            print("== Redrock's templates in the same engine")
            redrock = open_templates(Path(folder) / "redrock-templates")
            smooth = [one for one in open_templates() if not one.spectype]
            print_accuracy(judged(al.classify_spectra(spectra, [*redrock, *smooth], with_network=False), truth))
    else:
        print("ASTROLAB_REAL_DATA is not set: accuracy on real spectra was not measured")
    print("== Simulated")
    print_calibration()


if __name__ == "__main__":
    main()
