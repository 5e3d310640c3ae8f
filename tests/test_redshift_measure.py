"""Line measurements against known Gaussians, plain numpy and scipy; absorption against its definition."""

import numpy as np
import pytest
import xarray as xr
from scipy.interpolate import CubicSpline
from scipy.ndimage import binary_dilation, uniform_filter1d
from scipy.optimize import curve_fit

import astrolab as al
from astrolab.redshift.line_fits import NO_LINE, NOT_VISIBLE, absorption_index, fit_power_law
from astrolab.redshift.measure import CONTINUUM, LINES
from astrolab.redshift.templates import open_templates
from astrolab.redshift.troughs import fit_quasar, quasar_set
from astrolab.simulation.rare import inject_bal

SPEED_OF_LIGHT = 299792.458
WAVELENGTH = 10 ** np.arange(3.5563, 3.9916, 1e-4)


def _spectra(flux, sigma, redshift, seed=0):
    """Spectra on a logarithmic grid, with noise of one sigma everywhere."""
    rng = np.random.default_rng(seed)
    n = len(flux)
    noisy = (flux + sigma * rng.normal(size=flux.shape)).astype("float32")
    columns = {"ra": np.zeros(n), "dec": np.zeros(n), "redshift": np.asarray(redshift, "float64")}
    columns |= {"redshift_err": np.full(n, 1e-4), "redshift_warning": np.zeros(n, "int64")}
    columns |= {"spectype": np.full(n, "QSO"), "survey": np.full(n, "test"), "targetid": np.arange(n)}
    return xr.Dataset(
        {
            "flux": (("object", "wavelength"), noisy),
            "ivar": (("object", "wavelength"), np.full(flux.shape, 1 / sigma**2, "float32")),
        },
        coords={"wavelength": WAVELENGTH} | {name: ("object", column) for name, column in columns.items()},
    )


def _gaussian(line, ew, fwhm, velocity, redshift, slope=-1.0, level=5.0):
    rest = WAVELENGTH / (1 + redshift)
    continuum = level * (rest / 3000) ** slope
    place = (SPEED_OF_LIGHT * np.log(rest / line) - velocity) / (fwhm / 2.3548)
    at_line = level * (line * np.exp(velocity / SPEED_OF_LIGHT) / 3000) ** slope
    peak = ew * at_line / (np.sqrt(2 * np.pi) * fwhm / 2.3548 / SPEED_OF_LIGHT * line)
    return continuum + peak * np.exp(-0.5 * place**2)


CASES = {"civ": (30, 4500, -1200, 2.2), "mgii": (25, 4000, 150, 1.2), "hbeta": (40, 3500, -100, 0.5),
         "oiii": (20, 500, -80, 0.5), "halpha": (120, 3000, 60, 0.25)}  # fmt: skip


@pytest.mark.parametrize("key", CASES)
def test_gaussian_lines_are_measured(key):
    line = next(one for one in LINES if one.key == key)
    ew, fwhm, velocity, redshift = CASES[key]
    flux = np.tile(_gaussian(line.wavelength, ew, fwhm, velocity, redshift), (60, 1))
    found = al.measure_lines(_spectra(flux, 0.25, np.full(60, redshift)))
    assert (found[f"{key}_flag"] == 0).all()
    for name, wanted, worst in (("ew", ew, 0.04), ("fwhm", fwhm, 0.05), ("w80", 2.563 / 2.3548 * fwhm, 0.06)):
        values = found[f"{key}_{name}"].values
        assert np.median(values) == pytest.approx(wanted, rel=worst)
    assert np.median(found[f"{key}_velocity"]) == pytest.approx(velocity, abs=0.05 * fwhm)
    # the stated errors are the scatter of repeated measurements
    for name in ("ew", "fwhm", "velocity", "w80"):
        scatter = found[f"{key}_{name}"].values.std()
        assert 0.65 < np.median(found[f"{key}_{name}_err"]) / scatter < 1.5


def test_measurements_are_those_of_plain_numpy():
    line = LINES[0]
    flux = _gaussian(line.wavelength, 35, 4000, -500, 2.0)[None]
    spectra = _spectra(flux, 0.2, [2.0], seed=3)
    found = al.measure_lines(spectra)
    rest = WAVELENGTH / 3
    f, sigma = spectra["flux"].values[0].astype("float64"), 0.2
    side = np.any([(rest >= a) & (rest < b) for a, b in line.sides], axis=0)
    line_fit = np.polyfit(rest[side], f[side], 1)
    inside = (rest >= line.window[0]) & (rest < line.window[1])
    edges = np.concatenate([[rest[0]], 0.5 * (rest[1:] + rest[:-1]), [rest[-1]]])
    continuum = np.polyval(line_fit, rest[inside])
    ew = np.sum((f[inside] / continuum - 1) * np.diff(edges)[inside])
    assert found["civ_ew"].item() == pytest.approx(ew, rel=1e-4)
    velocity = SPEED_OF_LIGHT * np.log(rest[inside] / line.wavelength)
    values, covariance = curve_fit(
        lambda v, a, b, s: a * np.exp(-0.5 * ((v - b) / s) ** 2), velocity, f[inside] - continuum, p0=(5, 0, 2000),
        sigma=np.full(velocity.size, sigma), absolute_sigma=True,
    )  # fmt: skip
    assert found["civ_fwhm"].item() == pytest.approx(2.3548 * abs(values[2]), rel=1e-3)
    assert found["civ_fwhm_err"].item() == pytest.approx(2.3548 * np.sqrt(covariance[2, 2]), rel=1e-2)
    share = np.cumsum((f[inside] - continuum) * np.diff(edges)[inside])
    share /= share[-1]
    wanted = [
        np.interp(p, share[np.abs(share - p) < 0.02], velocity[np.abs(share - p) < 0.02]) for p in (0.1, 0.5, 0.9)
    ]
    assert found["civ_velocity"].item() == pytest.approx(wanted[1], abs=80)
    assert found["civ_w80"].item() == pytest.approx(wanted[2] - wanted[0], abs=250)


def test_slope_of_a_power_law():
    flux = np.tile(_gaussian(1.0, 0, 1000, 0, 1.5, slope=-1.7), (40, 1))
    found = al.measure_lines(_spectra(flux, 0.4, np.full(40, 1.5)))
    slope, err = found["continuum_slope"].values, found["continuum_slope_err"].values
    assert abs(slope.mean() + 1.7) < 4 * err.mean() / np.sqrt(40)
    assert 0.7 < err.mean() / slope.std() < 1.4
    assert found["continuum_3000"].values.mean() == pytest.approx(5.0, rel=0.02)
    out, rest = np.empty(4), WAVELENGTH / 2.5
    fit_power_law(rest, flux[0], np.ones(len(rest)), CONTINUUM, 3000.0, out)
    assert out[:2] == pytest.approx([5.0, -1.7], rel=1e-6)


def test_what_is_not_there_is_nan_with_a_flag():
    flat = np.full((3, len(WAVELENGTH)), 2.0)
    spectra = _spectra(flat, 0.2, [2.2, np.nan, 2.2])
    spectra["ivar"].values[2, (WAVELENGTH > 4800) & (WAVELENGTH < 5000)] = 0  # C IV is masked
    spectra["flux"].values[2, :30] = np.nan
    found = al.measure_lines(spectra)
    assert found["civ_flag"].values.tolist() == [NO_LINE, NOT_VISIBLE, NOT_VISIBLE]
    assert np.isfinite(found["civ_ew"].values).tolist() == [True, False, False]
    assert np.isnan(found["civ_fwhm"].values).all()
    assert (found["halpha_flag"] == NOT_VISIBLE).all()
    assert np.isnan(found["continuum_slope"].values[1])
    assert found["absorption_flag"].values.tolist()[1] == NOT_VISIBLE


def test_masked_pixels_and_chunks_do_not_matter(in_chunks):
    survey = al.simulate_survey(24, seed=8).load()
    found = al.measure_lines(survey)
    changed = survey.copy(deep=True)
    changed["flux"].values[survey["ivar"].values == 0] = 1e6
    xr.testing.assert_identical(al.measure_lines(changed), found)
    xr.testing.assert_identical(al.measure_lines(in_chunks(survey, 7)), found)


def test_every_column_has_a_unit_and_a_ucd():
    found = al.measure_lines(al.simulate_survey(2, seed=8))
    for name, column in found.data_vars.items():
        assert column.attrs["ucd"], name
        assert name.endswith("_flag") or column.attrs["units"], name
        assert name.endswith(("_flag", "_err")) or f"{name}_flag" in found or f"{name}_err" in found


def test_a_wrong_number_of_redshifts_is_refused():
    with pytest.raises(ValueError, match=r"redshift has shape \(3,\), expected \(2,\)"):
        al.measure_lines(al.simulate_survey(2, seed=8), [1, 2, 3])


# --- absorption


def _balnicity_slow(velocity, ratio):
    """∫ (1 - f/0.9) C dv, C = 1 where the bracket has been positive for more than 2,000 km/s: Weymann et al. (1991)."""
    total, run = 0.0, 0.0
    step = velocity[1] - velocity[0]
    for v, f in zip(velocity, ratio, strict=True):
        if not 3000 <= v <= 25000 or f >= 0.9:
            run = 0.0
            continue
        if run >= 2000:
            total += (1 - f / 0.9) * step
        run += step
    return total


def test_balnicity_is_its_definition():
    velocity = np.arange(-3000.0, 29000, 70)
    rng = np.random.default_rng(2)
    for first, last, depth in ((5000, 9000, 0.8), (4000, 5500, 0.9), (1000, 12000, 0.3), (20000, 28000, 1.0)):
        ratio = 1 - depth * ((velocity > first) & (velocity < last)) + 0.01 * rng.normal(size=velocity.size)
        found, err = absorption_index(velocity, ratio, np.full(velocity.size, 0.01), 3000.0, 25000.0, 0.9, 2000.0, 0.9)
        assert found == pytest.approx(_balnicity_slow(velocity, ratio), abs=1)
        assert err < 30
    ratio = np.where((velocity > 1000) & (velocity < 3500), 0.4, 1.0)  # a trough of 2,500 km/s: 0.6 deep
    found, _ = absorption_index(velocity, ratio, np.zeros(velocity.size), 0.0, 29000.0, 0.9, 1000.0, 1.0)
    assert found == pytest.approx(0.6 * 2500, rel=0.05)


def test_injected_troughs_are_found_and_others_are_not():
    survey = al.simulate_survey(300, seed=9, rare_fraction=0, galaxy_fraction=0, star_fraction=0, sky_fraction=0)
    redshift = survey["truth_redshift"].values
    rows = np.flatnonzero((redshift > 1.75) & (redshift < 3) & (survey["truth_magnitude"].values < 21))[:24]
    own = survey.isel(object=rows).load().assign_coords(redshift=("object", redshift[rows]))
    clear = al.measure_lines(own)
    rng = np.random.default_rng(0)
    flux = inject_bal(own["flux"].values, own["wavelength"].values, redshift[rows], rng, velocity=5000.0, width=5000.0,
                      depth=0.8)  # fmt: skip
    absorbed = al.measure_lines(own.assign(flux=(own["flux"].dims, flux)))
    seen = absorbed["absorption_flag"].values == 0
    assert seen.sum() > 12
    # a trough 5,000 km/s wide and about 0.6 deep, of which the first 2,000 do not count
    assert np.median(absorbed["balnicity"].values[seen]) == pytest.approx(2000, rel=0.4)
    assert (absorbed["balnicity"].values[seen] > 300).mean() > 0.85
    assert (clear["balnicity"].values[seen] > 300).mean() < 0.15


def _fit_quasar_slow(flux, weight, one, redshift):
    """What `fit_quasar` is to give, written with whole arrays; the weight covers only what the set covers."""
    basis = CubicSpline(one.log_wavelength, one.vectors, axis=1)(np.log10(WAVELENGTH / (1 + redshift)))
    step = np.log(10) * SPEED_OF_LIGHT * np.median(np.diff(np.log10(WAVELENGTH)))
    may_absorb = np.zeros(flux.size, bool)
    for line in (1033.8, 1215.67, 1240.14, 1396.76, 1549.06, 1857.4, 2798.75):
        velocity = -SPEED_OF_LIGHT * np.log(WAVELENGTH / (1 + redshift) / line)
        may_absorb |= (velocity > 500) & (velocity < 27_000)
    is_trough = np.zeros(flux.size, bool)
    for _ in range(5):
        own = np.where(is_trough, 0, weight).astype("float64")
        normal, right = (basis * own) @ basis.T, basis @ (own * flux)
        precision = 1 / ((right[0] / normal[0, 0]) ** 2 * one.prior_err**2)
        system = normal + np.diag(1e-6 * np.diag(normal) + precision)
        flux_model = np.linalg.solve(system, right) @ basis
        width = round(1000 / step)
        total = uniform_filter1d(weight.astype("float64"), width, mode="constant")
        missing = uniform_filter1d(weight * (flux_model - flux), width, mode="constant") / total
        low = may_absorb & (missing > 0.12 * np.abs(flux_model)) & (missing > 3 / np.sqrt(total * width))
        for first, last in np.flatnonzero(np.diff(np.concatenate([[0], low, [0]]))).reshape(-1, 2):
            low[first:last] &= (last - first) * step >= 1500
        is_trough = binary_dilation(low, iterations=round(500 / step))
    return flux_model, is_trough


def test_troughs_are_their_plain_numpy_truth():
    one = quasar_set(open_templates(), 2.3)
    clear = np.interp(np.log10(WAVELENGTH / 3.3), one.log_wavelength, one.vectors[0])
    for seed, width in ((1, 6000.0), (2, 12000.0)):
        rng = np.random.default_rng(seed)
        absorbed = inject_bal(clear[None], WAVELENGTH, np.array([2.3]), rng, velocity=6000.0, width=width, depth=0.8)[0]
        noisy = (absorbed + 0.05 * rng.normal(size=clear.size)).astype("float32")
        weight = np.full(clear.size, 400.0, "float32")
        flux_model, is_trough = fit_quasar(noisy, weight, np.log10(WAVELENGTH), one, 2.3)
        wanted, is_wanted = _fit_quasar_slow(noisy, weight, one, 2.3)
        assert is_wanted.sum() > 50
        np.testing.assert_array_equal(is_trough, is_wanted)
        np.testing.assert_allclose(flux_model, wanted, rtol=1e-3, atol=1e-3 * clear.max())


def test_quasar_without_its_troughs_is_the_unabsorbed_one():
    one = quasar_set(open_templates(), 2.3)
    at = np.log10(WAVELENGTH / 3.3)
    clear = np.interp(at, one.log_wavelength, one.vectors[0])
    absorbed = inject_bal(clear[None], WAVELENGTH, np.array([2.3]), np.random.default_rng(1), velocity=6000.0,
                          width=6000.0, depth=0.9)[0]  # fmt: skip
    noisy = (absorbed + 0.03 * np.random.default_rng(2).normal(size=clear.size)).astype("float32")
    weight = np.full(clear.size, 1 / 0.03**2, "float32")
    flux_model, is_trough = fit_quasar(noisy, weight, np.log10(WAVELENGTH), one, 2.3)
    where = clear > 1.4 * absorbed
    assert is_trough[where].mean() > 0.8
    rest = WAVELENGTH / 3.3
    outside = rest > 1250
    assert np.abs(flux_model / clear - 1)[outside].mean() < 0.06
