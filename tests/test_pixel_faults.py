"""Faults of observed pixels: what is narrower than the line spread is found, and light never is."""

import os
import subprocess
import sys

import numpy as np
import pytest

import astrolab as al
from astrolab.airglow import AIRGLOW
from astrolab.anomaly.scores import raw_scores
from astrolab.pixel_faults import PIXEL_COLUMNS, find_pixel_faults
from astrolab.stores.spectra import open_spectra, save_spectra

DESI = 3600 + 0.8 * np.arange(7781)
SDSS = 10 ** (3.58 + 1e-4 * np.arange(3800))


def faults(flux, ivar, wavelength=DESI):
    found = find_pixel_faults(np.atleast_2d(flux), np.atleast_2d(ivar), wavelength)
    return dict(zip(PIXEL_COLUMNS, found.T, strict=True))


def noise(n_object=1, n=7781):
    return np.random.default_rng(0).normal(10, 1, (n_object, n)), np.ones((n_object, n))


def slow_faults(flux, ivar, wavelength):
    """Return the columns of one spectrum, pixel by pixel, as they are defined."""
    flux, ivar, n = flux.astype("f8"), ivar.astype("f8"), len(flux)
    width = np.gradient(wavelength)
    spike, spike_at, squares = 0.0, wavelength[0], {True: [], False: []}
    for k in range(4, n - 4):
        sides = [k - 4, k - 3, k + 3, k + 4]
        if (ivar[[k, *sides]] > 0).all():
            below, of_below = flux[sides].mean(), (1 / ivar[sides]).sum() / 16
            distance = np.abs(np.array([line for line, _ in AIRGLOW]) - wavelength[k])
            is_bright = np.array([power > 50 for _, power in AIRGLOW])
            square = min((flux[k] - below) ** 2 / (1 / ivar[k] + of_below), 9)
            if wavelength[k] > 5500 and distance[is_bright].min() < 1.5 * width[k]:
                squares[True].append(square)
            if wavelength[k] > 5500 and distance.min() > 3 * width[k]:
                squares[False].append(square)
            if (ivar[[k - 1, k + 1]] > 0).all() and 299_792.458 * width[k] / wavelength[k] < 80:
                sign = 1 if flux[k] > below else -1
                light = np.maximum(sign * (flux[[k - 1, k + 1]] - below), 0).sum() / 1.1
                error2 = 1 / ivar[k] + (1 / ivar[k - 1] + 1 / ivar[k + 1]) / 1.21 + of_below
                sigma = (sign * (flux[k] - below) - light) / np.sqrt(error2)
                if sigma > spike:
                    spike, spike_at = sigma, wavelength[k]
    enough = min(map(len, squares.values())) >= 20
    airglow = np.log((np.mean(squares[True]) + 0.3) / (np.mean(squares[False]) + 0.3)) if enough else 0.0
    return spike, spike_at, airglow


@pytest.mark.parametrize(
    "wavelength", [DESI[2400:4600], SDSS, np.linspace(3600, 9800, 900)], ids=["DESI", "SDSS", "wide"]
)
def test_columns_are_the_plain_truth(wavelength):
    rng = np.random.default_rng(1)
    flux, ivar = rng.normal(5, 2, (3, len(wavelength))), rng.uniform(0.1, 2, (3, len(wavelength)))
    ivar[rng.random(ivar.shape) < 0.03] = 0
    flux[ivar == 0] = np.nan
    flux, ivar = flux.astype("f4"), ivar.astype("f4")
    expected = [slow_faults(*one, wavelength) for one in zip(flux, ivar, strict=True)]
    np.testing.assert_allclose(find_pixel_faults(flux, ivar, wavelength), expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("height", [20, -20], ids=["cosmic ray", "dead column"])
def test_a_pixel_that_is_off_alone_is_found(height):
    flux, ivar = noise()
    assert faults(flux, ivar)["pixel_spike"] < 5
    flux[0, 4000] += height
    found = faults(flux, ivar)
    assert found["pixel_spike"] > 8
    assert found["pixel_spike_at"] == pytest.approx(DESI[4000], abs=1e-3)


@pytest.mark.parametrize("fwhm", [2.2, 2.5, 4, 12])
def test_no_line_is_sharp_however_bright(fwhm):
    """At any place within its pixel, and integrated over pixels as a detector does."""
    rng = np.random.default_rng(2)
    flux, ivar = noise(200)
    place = rng.uniform(1000, 6000, (200, 1))
    fine = (np.arange(len(DESI))[:, None] + np.linspace(-0.45, 0.45, 10)).ravel()
    for row, at in enumerate(place):
        profile = np.exp(-0.5 * ((fine - at) / (fwhm / 2.3548)) ** 2).reshape(-1, 10).mean(axis=1)
        flux[row] += 100 * profile
    assert (faults(flux, ivar)["pixel_spike"] < 6).all()
    assert (faults(-flux, ivar)["pixel_spike"] < 6).all()  # nor in absorption


def test_masked_pixels_do_not_matter():
    flux, ivar = noise(3)
    ivar[:, 3000:3003] = 0
    flux[:, 3000:3003] = 0
    quiet = find_pixel_faults(flux, ivar, DESI)
    for value in (1e9, np.nan, np.inf):
        flux[:, 3000:3003] = value
        np.testing.assert_array_equal(find_pixel_faults(flux, ivar, DESI), quiet)
    np.testing.assert_array_equal(find_pixel_faults(flux, np.zeros_like(ivar), DESI)[:, [0, 2]], 0)
    assert find_pixel_faults(flux[:, :8], ivar[:, :8], DESI[:8]).tolist() == [[0, 0, 0]] * 3


def test_wide_pixels_are_not_taken_for_spikes():
    wavelength = np.linspace(3600, 9800, 1500)  # 130 to 340 km/s
    flux, ivar = noise(n=1500)
    flux[0, 700] += 50
    assert faults(flux, ivar, wavelength)["pixel_spike"] == 0


def test_residuals_of_the_sky_are_told_from_others():
    flux, ivar = noise(2)
    lines = np.array([line for line, power in AIRGLOW if power > 50])
    rng = np.random.default_rng(3)
    near = np.searchsorted(DESI, lines)
    wrong = rng.choice(np.arange(2500, 7700), len(near), replace=False)
    for row, places in enumerate((near, wrong)):
        flux[row, places] += 6 * rng.choice([-1, 1], len(places))
    on, off = faults(flux, ivar)["pixel_airglow"]
    assert on > 0.5
    assert abs(off) < 0.2


def test_the_rest_frame_carries_them(tmp_path):
    """In memory, chunk by chunk and through a store, the same; other redshifts change nothing of what pixels say."""
    survey = al.simulate_survey(12, seed=3).load()
    grid = al.rest_grid(1216, 2900, 100)
    rest = al.normalize_flux(al.to_restframe(survey, grid))
    expected = find_pixel_faults(survey.flux.values, survey.ivar.values, survey.wavelength.values)
    np.testing.assert_array_equal(rest.pixel_faults, expected)
    chunked = {name: survey[name].chunk({"object": 5, "wavelength": 1000}) for name in ("flux", "ivar")}
    lazy = al.normalize_flux(al.to_restframe(survey.assign(chunked), grid))
    np.testing.assert_array_equal(lazy.pixel_faults.compute(), expected)
    save_spectra(rest, tmp_path / "rest.zarr", keep_order=True)
    np.testing.assert_array_equal(open_spectra(tmp_path / "rest.zarr").pixel_faults.compute(), expected)
    vae = al.VAE(n_wavelength=100)
    whole, in_chunks = raw_scores(vae, rest), raw_scores(vae, lazy)
    np.testing.assert_array_equal(whole[list(PIXEL_COLUMNS)], expected)
    np.testing.assert_array_equal(in_chunks[list(PIXEL_COLUMNS)], expected)
    nobody_looked = raw_scores(vae, rest.drop_vars("pixel_faults"))
    assert (nobody_looked[list(PIXEL_COLUMNS)] == 0).all(axis=None)


def test_a_spectrum_that_a_cosmic_ray_hit_is_an_artefact():
    survey = al.select_objects(al.simulate_survey(60, seed=4))[0].load()
    grid = al.rest_grid(1216, 2900, 100)
    vae = al.VAE(n_wavelength=100)

    def rank(spectra):
        rest = al.normalize_flux(al.to_restframe(spectra, grid))
        return al.score_anomalies(vae, rest).ranking.set_index("targetid")

    before = rank(survey)
    hit = before["artefact_cosmic_ray"].idxmin()
    flux, row = survey["flux"].values.copy(), int(np.flatnonzero(survey.targetid == hit)[0])
    good = survey["ivar"].values[row] > 0
    at = int(np.flatnonzero(good & np.roll(good, 1) & np.roll(good, -1))[good.sum() // 2])
    flux[row, at] += 60 / np.sqrt(survey["ivar"].values[row, at])
    after = rank(survey.assign(flux=(survey["flux"].dims, flux)))
    assert after.loc[hit, "artefact_cosmic_ray"] == 20
    assert after.loc[hit, "pipeline_rank"] <= 3
    assert after.loc[hit, "anomaly_rank"] > len(after) - 5
    assert "sharper than the line spread" in after.loc[hit, "artefact_evidence"]


@pytest.mark.parametrize("survey", ["sdss", "desi"])
def test_real_spectra_have_hardly_any(real_data, survey):
    """Pipelines mask what they see; narrow lines of galaxies, stars and tidal disruption events are no spikes."""
    spectra = {"sdss": al.read_sdss, "desi": al.read_desi}[survey](real_data / survey)
    rows = slice(None, None, max(spectra.sizes["object"] // 200, 1))
    found = al.to_restframe(spectra.isel(object=rows), al.rest_grid(1216, 2900, 100)).pixel_faults.compute()
    spike, _, airglow = found.values.T
    assert (spike > 5).mean() < 0.02
    assert (airglow > np.log(2.2)).mean() < 0.05


@pytest.mark.skipif(sys.platform != "linux", reason="MALLOC_PERTURB_ is the GNU C library's")
def test_what_memory_held_before_does_not_matter(tmp_path):
    """Rest frame and raw scores, once more where the C library fills what it gives with rubbish."""
    script = (
        "import sys, numpy as np, astrolab as al\n"
        "from astrolab.anomaly.scores import raw_scores\n"
        "from astrolab.models.pretrained import pretrained_vae\n"
        "rest = al.to_restframe(al.simulate_survey(40, seed=5), al.rest_grid(1000, 7500, 1500))\n"
        "np.save(sys.argv[1], raw_scores(pretrained_vae(), al.normalize_flux(rest)).to_numpy())\n"
    )
    scores = []
    for rubbish in ("0", "1"):
        path = tmp_path / f"{rubbish}.npy"
        subprocess.run([sys.executable, "-c", script, path], check=True, env=os.environ | {"MALLOC_PERTURB_": rubbish})
        scores.append(np.load(path))
    np.testing.assert_array_equal(*scores)
