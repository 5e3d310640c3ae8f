"""The shape of spectra without a model: lines over their sides, continua between lines."""

import numpy as np
import pandas as pd
import pytest

from astrolab.anomaly.shape import (
    CONTINUUM_WINDOWS,
    LINE_WINDOWS,
    SHAPE_COLUMNS,
    fit_shape,
    measure_shape,
    shape_scores,
)

WAVELENGTH = np.geomspace(1000.0, 7500.0, 1500)


def quasars(n=200, seed=0):
    """Return power laws with lines of ordinary strengths, S/N 20 a pixel, each covering a part of the range."""
    rng = np.random.default_rng(seed)
    flux = (WAVELENGTH / 3000) ** rng.normal(-1.2, 0.3, (n, 1))
    for low, high, *_ in LINE_WINDOWS.values():
        shape = np.exp(-0.5 * ((WAVELENGTH - (low + high) / 2) / (high - low) * 4) ** 2)
        flux = flux * (1 + rng.lognormal(0, 0.2, (n, 1)) * shape)
    start = rng.integers(0, 500, (n, 1))
    is_covered = (np.arange(1500) > start) & (np.arange(1500) < start + 900)
    return flux + rng.normal(0, 0.05, flux.shape), np.where(is_covered, 400.0, 0)


def table_of(flux, ivar):
    return pd.DataFrame(measure_shape(flux, ivar, WAVELENGTH), columns=SHAPE_COLUMNS)


def test_shape_is_the_plain_truth():
    flux, ivar = quasars(20)
    table = table_of(flux, ivar)
    for i in (0, 7, 19):
        good = ivar[i] > 0

        def mean(low, high, i=i, good=good):
            inside = (low <= WAVELENGTH) & (high > WAVELENGTH)
            if (inside & good).sum() <= 0.6 * inside.sum():
                return np.nan, np.nan
            return flux[i, inside & good].mean(), np.sqrt((1 / ivar[i, inside & good]).sum()) / (inside & good).sum()

        for name, (low, high, *sides) in LINE_WINDOWS.items():
            (line, line_err), (left, left_err), (right, right_err) = mean(low, high), mean(*sides[:2]), mean(*sides[2:])
            at = [(low + high) / 2, (sides[0] + sides[1]) / 2, (sides[2] + sides[3]) / 2]
            continuum = np.interp(at[0], at[1:], [left, right]) if np.isfinite(left + right) else np.nan
            truth = np.log(max(0.2 + line / continuum, 0.2)) if np.isfinite(continuum + line) else np.nan
            assert table[f"line_{name}"][i] == pytest.approx(truth, rel=1e-4, nan_ok=True), name
            if np.isfinite(truth):
                share = (at[0] - at[1]) / (at[2] - at[1])
                side_err = np.hypot((1 - share) * left_err, share * right_err)
                error = np.hypot(line_err, side_err * line / continuum) / continuum / (0.2 + line / continuum)
                assert table[f"line_{name}_err"][i] == pytest.approx(error, rel=1e-3)
        for low, high in CONTINUUM_WINDOWS:
            value, error = mean(low, high)
            assert table[f"continuum_{(low + high) // 2}"][i] == pytest.approx(np.log(value), rel=1e-3, nan_ok=True)
            assert table[f"continuum_{(low + high) // 2}_err"][i] == pytest.approx(error / value, rel=1e-3, nan_ok=True)


def test_masked_pixels_do_not_matter():
    flux, ivar = quasars(20)
    changed = np.where(ivar > 0, flux, 1e9)
    np.testing.assert_array_equal(measure_shape(changed, ivar, WAVELENGTH), measure_shape(flux, ivar, WAVELENGTH))


def test_missing_lines_and_bent_continua_stand_out_and_a_tilt_does_not():
    flux, ivar = quasars()
    flux[0] = (WAVELENGTH / 3000) ** -1.2  # no lines
    flux[1] *= 1 + 0.8 * np.sin(6 * np.log(WAVELENGTH))  # bent
    flux[2] *= (WAVELENGTH / 3000) ** 1.5  # tilted
    ivar[:3] = 400.0
    table = table_of(flux, ivar)
    scores = shape_scores(table, fit_shape(table))
    assert scores["weak_lines"].idxmax() == 0
    assert scores["bent_continuum"].idxmax() == 1
    assert scores["bent_continuum"][2] < scores["bent_continuum"][1] - 4
    assert np.isfinite(scores[["weak_lines", "bent_continuum"]]).all(axis=None)


def test_a_spectrum_of_which_nothing_was_measured_is_ordinary():
    flux, ivar = quasars(30)
    ivar[0] = 0
    table = table_of(flux, ivar)
    assert table.iloc[0].isna().all()
    assert shape_scores(table, fit_shape(table))["weak_lines"][0] == 0
