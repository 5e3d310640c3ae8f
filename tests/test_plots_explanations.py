"""Plots of reasons and of calibration hold what they claim to show."""

import holoviews as hv
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import astrolab.plots as plots

FIRST_ID = 2**53 + 1


@pytest.fixture
def ranked():
    rng = np.random.default_rng(1)
    wavelength, n_objects = np.geomspace(1216, 2900, 400), 5
    model = (wavelength / 2000) ** -1.5 + np.exp(-(((wavelength - 1549) / 15) ** 2)) + np.zeros((n_objects, 1))
    ivar = rng.uniform(20, 60, model.shape)
    flux = model + rng.normal(size=model.shape) / np.sqrt(ivar)
    ivar[:, 100:110] = 0
    dims = ("object", "wavelength_rest")
    return xr.Dataset(
        {
            "flux": (dims, flux.astype("f4"), {"units": "1"}),
            "ivar": (dims, ivar.astype("f4")),
            "flux_model": (dims, model.astype("f4")),
            "attribution": (dims, rng.normal(size=model.shape).astype("f4") / 400),
        },
        coords={
            "wavelength_rest": wavelength,
            "targetid": ("object", FIRST_ID + 2 * np.arange(n_objects)),
            "redshift": ("object", rng.uniform(1.8, 3, n_objects)),
            "spectype": ("object", np.array(["QSO"] * n_objects, dtype=object)),
            "anomaly_score": ("object", np.arange(n_objects, 0, -1).astype("f4")),
            "anomaly_rank": ("object", np.arange(1, n_objects + 1, dtype="i4")),
        },
    )


@pytest.fixture
def regions():
    return pd.DataFrame(
        {
            "targetid": [FIRST_ID, FIRST_ID, FIRST_ID + 2],
            "region": [1, 2, 1],
            "significance": [-9.0, 4.0, 5.0],
            "wavelength_min": [1480.0, 2000.0, 1700.0],
            "wavelength_max": [1520.0, 2040.0, 1800.0],
            "text": [
                "trough at −9,000 ± 300 km/s from C IV; without it rank 40",
                "</script>",
                "excess at 1,700–1,800 Å",
            ],
        }
    )


@pytest.fixture
def ranking():
    rng = np.random.default_rng(0)
    n = 400
    table = pd.DataFrame({"targetid": FIRST_ID + np.arange(n), "anomaly_rank": np.arange(1, n + 1)})
    table["anomaly_score"] = np.sort(rng.gamma(2, 1, n))[::-1]
    table["p_value"] = rng.permutation((np.arange(n) + 1) / (n + 1))
    for name in ("artefact_score", "redshift", "n_good"):
        table[name] = rng.normal(5, 1, n)
    return table.assign(snr=table["anomaly_score"])


def render(element):
    return hv.renderer("bokeh").get_plot(element).state


def titles(figure):
    return [child[0].title.text for child in render(figure).children]


def elements(figure, kind):
    return figure.traverse(lambda element: element, [lambda element: type(element) is kind])


def test_an_explanation_shades_its_regions_in_every_panel_and_puts_them_into_words(ranked, regions):
    figure = plots.plot_explanation(ranked.isel(object=0), regions, ordinary=ranked.isel(object=3))
    (title, _, _) = titles(figure)
    assert title.splitlines()[1:] == ["1  " + regions["text"][0], "2  ‹/script>"]
    shades = [spans.array() for spans in elements(figure, hv.VSpans)]
    for low, high in zip(regions["wavelength_min"][:2], regions["wavelength_max"][:2], strict=True):
        assert sum((len(span) == 1) and tuple(span[0]) == (low, high) for span in shades) == 3
    assert not any(len(span) and span[0, 0] == 1700.0 for span in shades)
    (ordinary,) = [curve for curve in elements(figure, hv.Curve) if curve.label == "nearest ordinary object"]
    model, good = ranked["flux_model"].values[3], ranked["ivar"].values[3] > 0
    np.testing.assert_allclose(ordinary.dimension_values(1)[good], model[good])
    assert np.isnan(ordinary.dimension_values(1)[~good]).all()
    above, below = (area.dimension_values(1) for area in elements(figure, hv.Area))
    np.testing.assert_allclose(above + below, 100 * ranked["attribution"].values[0], rtol=1e-5)
    assert len(render(figure).children) == 3


def test_an_object_without_attribution_or_regions_still_draws(ranked, regions):
    one = ranked.isel(object=4).drop_vars("attribution")
    assert len(titles(plots.plot_explanation(one, regions))) == 2
    with pytest.raises(ValueError, match="no 'flux_model'"):
        plots.plot_explanation(one.drop_vars("flux_model"), regions)


def test_a_gallery_says_the_first_reason_of_each(ranked, regions):
    first, second, third = titles(plots.plot_reason_gallery(ranked, regions, n=3))
    assert "trough at −9,000 ± 300 km/s from C IV;" in first.replace("\n", " ")
    assert "script" not in first
    assert second.startswith("#2")
    assert "excess at 1,700–1,800 Å" in second
    assert third.startswith("#3")


def test_calibration_counts_every_object_and_shows_a_trend_where_there_is_one(ranking):
    figure = plots.plot_calibration(ranking)
    bars, quantiles, redshift, snr, _, _ = titles(figure)
    assert "400 objects" in bars
    assert elements(figure, hv.Histogram)[0].dimension_values(1).sum() == 400
    assert float(quantiles.split("distance ")[1].split(",")[0]) < 0.01
    assert abs(float(redshift.split("=")[1])) < 0.2
    assert snr == "Median and quartiles against S/N: Spearman ρ = +1.00"


def test_p_values_that_are_not_uniform_leave_the_band(ranking):
    quantiles = titles(plots.plot_calibration(ranking.assign(p_value=ranking["p_value"] ** 2)))[1]
    distance, band = (float(part.split(" ")[-1].lstrip("±")) for part in quantiles.split(","))
    assert distance > 3 * band


def test_calibration_says_what_is_missing_and_survives_few(ranking):
    with pytest.raises(ValueError, match="no 'p_value'"):
        plots.plot_calibration(ranking.drop(columns="p_value"))
    render(plots.plot_calibration(ranking.head(12)))
