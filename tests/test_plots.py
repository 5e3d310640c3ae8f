"""Plots hold what they claim to show, and render without a warning."""

import json
import re

import holoviews as hv
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from bokeh.document import Document

import astrolab.plots as plots
from astrolab.lines import lines_between
from astrolab.plots.rankings import N_NAMED, N_POINTS_MAX
from astrolab.redshift.templates import open_templates
from astrolab.schema import FLUX_UNIT

FIRST_ID = 2**53 + 1  # a float, and a browser, would make it 2**53


def make_ranked(n_objects=30, n_wavelength=400):
    rng = np.random.default_rng(1)
    wavelength = np.geomspace(1216, 2900, n_wavelength)
    model = (wavelength / 2000) ** -1.5 + np.exp(-(((wavelength - 1549) / 15) ** 2)) + np.zeros((n_objects, 1))
    ivar = rng.uniform(20, 60, model.shape)
    flux = model + rng.normal(size=model.shape) / np.sqrt(ivar)
    ivar[:, 100:110] = 0
    flux[:, 100:110] = 1e6
    score = np.sort(rng.gamma(2, 1, n_objects))[::-1]
    return xr.Dataset(
        {
            "flux": (("object", "wavelength_rest"), flux.astype("f4"), {"units": "1"}),
            "ivar": (("object", "wavelength_rest"), ivar.astype("f4")),
            "flux_model": (("object", "wavelength_rest"), model.astype("f4")),
            "latent": (("object", "latent_dim"), rng.normal(size=(n_objects, 4)).astype("f4")),
        },
        coords={
            "wavelength_rest": wavelength,
            "targetid": ("object", FIRST_ID + 2 * np.arange(n_objects)),
            "redshift": ("object", rng.uniform(1.8, 3, n_objects)),
            "spectype": ("object", np.array(["QSO"] * n_objects, dtype=object)),
            "snr": ("object", rng.lognormal(1, 0.5, n_objects).astype("f4")),
            "anomaly_score": ("object", score.astype("f4")),
            "anomaly_rank": ("object", np.arange(1, n_objects + 1, dtype="i4")),
        },
    )


def observed(redshift=2.0):
    one = make_ranked(1).isel(object=0).drop_vars(["flux_model", "latent"])
    one = one.rename(wavelength_rest="wavelength").assign_coords(
        wavelength=one["wavelength_rest"].values * 3, redshift=redshift
    )
    one["flux"].attrs["units"] = FLUX_UNIT
    return one


def render(element):
    return hv.renderer("bokeh").get_plot(element).state


def panels(layout):
    return [child[0] for child in render(layout).children]


def elements(figure, kind):
    return figure.traverse(lambda element: element, [lambda element: type(element) is kind])


def curve_of(figure, label):
    return next(c for c in elements(figure, hv.Curve) if c.label == label)


def test_spectrum_shows_flux_reconstruction_and_residual():
    one = make_ranked().isel(object=0)
    figure = plots.plot_spectrum(one)
    render(figure)
    assert isinstance(figure, hv.Layout)
    good = one["ivar"].values > 0
    shown = curve_of(figure, "flux").dimension_values("flux")
    np.testing.assert_allclose(shown[good], one["flux"].values[good])
    assert np.isnan(shown[~good]).all()
    (residual,) = [c for c in elements(figure, hv.Curve) if c.vdims[0].name == "residual"]
    truth = (one["flux"].values - one["flux_model"].values) * np.sqrt(one["ivar"].values)
    np.testing.assert_allclose(residual.dimension_values("residual")[good], truth[good], rtol=1e-3, atol=1e-4)
    (guides,) = [g for g in elements(figure, hv.HLines) if len(g) == 2]
    assert sorted(guides.dimension_values(0)) == [-3, 3]
    band = elements(figure, hv.Spread)[0]
    np.testing.assert_allclose(band.dimension_values(2)[good], 1 / np.sqrt(one["ivar"].values[good]), rtol=1e-5)


def test_masked_pixels_do_not_matter():
    one = make_ranked().isel(object=0)
    other = one.copy(deep=True)
    other["flux"].values[one["ivar"].values == 0] = -77
    for smoothing in (0, 2):
        a, b = (plots.plot_spectrum(s, smoothing=smoothing) for s in (one, other))
        np.testing.assert_array_equal(*[curve_of(f, "flux").dimension_values("flux") for f in (a, b)])
        assert (
            hv.Store.lookup_options("bokeh", a[0], "plot").kwargs["ylim"]
            == (hv.Store.lookup_options("bokeh", b[0], "plot").kwargs["ylim"])
        )


def test_masked_runs_are_shaded():
    one = make_ranked().isel(object=0)
    spans = elements(plots.plot_spectrum(one), hv.VSpans)[0]
    wavelength = one["wavelength_rest"].values
    assert len(spans) == 1
    low, high = spans.array()[0]
    assert wavelength[99] < low < wavelength[100]
    assert wavelength[109] < high < wavelength[110]


def test_title_and_axes_name_the_object_and_units():
    top, residual = panels(plots.plot_spectrum(make_ranked().isel(object=0)))
    for part in ("#1", str(FIRST_ID), "QSO", "z = ", "S/N", "score"):
        assert part in top.title.text
    assert top.yaxis[0].axis_label == "flux (normalised)"
    assert residual.xaxis[0].axis_label == "rest wavelength (Å)"
    assert residual.yaxis[0].axis_label == "residual (σ)"
    assert top.x_range is residual.x_range
    single = render(plots.plot_spectrum(observed()))
    assert single.xaxis[0].axis_label == "observed wavelength (Å)"
    assert single.yaxis[0].axis_label == "flux (10⁻¹⁷ erg s⁻¹ cm⁻² Å⁻¹)"


@pytest.mark.parametrize("redshift", [0.0, 2.0])
def test_line_names_stand_where_the_lines_are(redshift):
    one = observed(redshift)
    low, high = one["wavelength"].values[[0, -1]] / (1 + redshift)
    lines = lines_between(low, high, only_major=True)
    figure = plots.plot_spectrum(one)
    (labels,) = elements(figure, hv.Labels)
    (marks,) = elements(figure, hv.Segments)
    assert list(labels.dimension_values("line")) == [line.name for line in lines]
    np.testing.assert_allclose(marks.dimension_values(0), [line.wavelength * (1 + redshift) for line in lines])
    assert not elements(plots.plot_spectrum(one, with_lines=False), hv.Labels)
    assert not elements(plots.plot_spectrum(one.assign_coords(redshift=np.nan)), hv.Labels)


def test_line_names_never_overlap():
    wavelength = np.linspace(900, 7000, 2000)  # every major line, Hβ close to [O III]
    one = xr.Dataset(
        {"flux": ("wavelength_rest", np.ones(2000, "f4")), "ivar": ("wavelength_rest", np.ones(2000, "f4"))},
        coords={"wavelength_rest": wavelength},
    )
    (labels,) = elements(plots.plot_spectrum(one), hv.Labels)
    per_pixel = (wavelength[-1] - wavelength[0]) / 620
    boxes = [(x - 3 * len(t) * per_pixel, x + 3 * len(t) * per_pixel, y) for x, y, t in labels.array()]
    for i, (low, high, y) in enumerate(boxes):
        for other_low, other_high, other_y in boxes[:i]:
            assert y != other_y or high < other_low or other_high < low


def test_smoothing_equals_a_plain_loop():
    one = make_ranked().isel(object=0)
    figure = plots.plot_spectrum(one, smoothing=1.5)
    flux, ivar = one["flux"].values.astype(float), one["ivar"].values.astype(float)
    pixel = np.arange(len(flux))
    for at in (0, 50, 98, 111, 399):
        weight = np.exp(-0.5 * ((pixel - at) / 1.5) ** 2) * (np.abs(pixel - at) <= 6)
        good = ivar > 0
        mean = np.sum((weight * ivar * flux)[good]) / np.sum((weight * ivar)[good])
        err = np.sqrt(np.sum((weight**2 * ivar)[good])) / np.sum((weight * ivar)[good])
        assert curve_of(figure, "flux").dimension_values("flux")[at] == pytest.approx(mean, rel=1e-5)
        assert elements(figure, hv.Spread)[0].dimension_values(2)[at] == pytest.approx(err, rel=1e-5)


def test_object_without_a_good_pixel_or_redshift_still_draws():
    one = make_ranked().isel(object=0)
    one["ivar"][:] = 0
    one = one.assign_coords(redshift=np.nan, spectype="")
    assert "no redshift" in panels(plots.plot_spectrum(one))[0].title.text


def test_one_object_is_asked_for():
    with pytest.raises(ValueError, match=r"holds 30 objects, expected one: spectra\.isel\(object=0\)"):
        plots.plot_spectrum(make_ranked())
    with pytest.raises(ValueError, match="smoothing is -1"):
        plots.plot_spectrum(make_ranked().isel(object=0), smoothing=-1)
    render(plots.plot_spectrum(make_ranked().isel(object=[3])))


def test_latent_map_keeps_every_object_and_its_exact_name():
    ranked = make_ranked()
    points = plots.plot_latent(ranked)
    render(points)
    assert set(points.dimension_values("name")) == {str(FIRST_ID + 2 * i) for i in range(30)}
    shown = np.column_stack([points.dimension_values(0), points.dimension_values(1)])
    latent = ranked["latent"].values - ranked["latent"].values.mean(axis=0)
    two_largest = np.linalg.svd(latent, compute_uv=False)[:2]
    np.testing.assert_allclose(np.linalg.norm(shown, axis=0), two_largest, rtol=1e-5)
    assert points.dimension_values("anomaly_rank")[-1] == 1  # drawn on top
    render(plots.plot_latent(ranked, color="redshift"))


def test_latent_map_of_many_is_a_raster_with_the_strangest_named():
    n_objects = N_POINTS_MAX + 1
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"targetid": FIRST_ID + np.arange(n_objects), "anomaly_rank": np.arange(1, n_objects + 1)})
    table["anomaly_score"] = np.linspace(9, 0, n_objects)
    for i in range(3):
        table[f"latent_{i}"] = rng.normal(size=n_objects)
    figure = plots.plot_latent(table)
    render(figure)
    assert len(elements(figure, hv.Image)) == 1
    (named,) = elements(figure, hv.Points)
    assert len(named) == N_NAMED
    assert set(named.dimension_values("anomaly_rank")) == set(range(1, N_NAMED + 1))


def test_latent_map_says_what_is_missing():
    with pytest.raises(ValueError, match="color is 'colour', expected a number of each object, one of: redshift"):
        plots.plot_latent(make_ranked(), color="colour")
    with pytest.raises(ValueError, match="no latent vectors"):
        plots.plot_latent(make_ranked().drop_vars("latent"))
    with pytest.raises(ValueError, match="no 'anomaly_score'"):
        plots.plot_latent(make_ranked().drop_vars("anomaly_score"))


def test_scores_show_a_trend_where_there_is_one():
    ranked = make_ranked(200)
    titles = [panel.title.text for panel in panels(plots.plot_scores(ranked))]
    assert titles[0] == "200 objects"
    assert abs(float(titles[2].split("=")[1])) < 0.2
    following = ranked.assign_coords(snr=ranked["anomaly_score"])
    titles = [panel.title.text for panel in panels(plots.plot_scores(following))]
    assert titles[2] == "Against S/N: Spearman ρ = +1.00"


def test_scores_count_every_object_and_survive_few_or_unknown():
    ranked = make_ranked(25)
    ranked["redshift"][:10] = np.nan
    figure = plots.plot_scores(plots.ranking_table(ranked))
    render(figure)
    assert np.round(elements(figure, hv.Histogram)[0].dimension_values(1)).sum() == 25


def test_history_marks_the_best_epoch():
    history = pd.DataFrame({"epoch": [1, 2, 3], "loss_train": [3.0, 2, 1], "loss_valid": [3.0, 2, 2.5]})
    figure = plots.plot_history(history)
    render(figure)
    assert list(elements(figure, hv.Scatter)[0].dimension_values("epoch")) == [2]
    with pytest.raises(ValueError, match="no column 'loss_valid'"):
        plots.plot_history(history.drop(columns="loss_valid"))


def test_gallery_shows_the_first_n():
    figure = plots.plot_gallery(make_ranked(), n=5)
    cells = panels(figure)
    assert [cell.title.text.split()[0] for cell in cells] == ["#1", "#2", "#3", "#4", "#5"]
    assert str(FIRST_ID) in cells[0].title.text
    assert len(plots.plot_gallery(make_ranked(2))) == 2
    with pytest.raises(ValueError, match="0 objects"):
        plots.plot_gallery(make_ranked().isel(object=[]))


def test_texts_of_a_survey_cannot_end_a_figures_script():
    attack = "</script><script>alert(1)</script><!--"
    ranked = make_ranked().assign_coords(spectype=("object", np.array([attack] * 30, dtype=object)))
    one = ranked.isel(object=0)
    for figure in (plots.plot_spectrum(one), plots.plot_latent(ranked), plots.plot_gallery(ranked, n=1)):
        document = Document()
        document.add_root(render(figure))
        stored = json.dumps(document.to_json().content, default=str, ensure_ascii=False)
        assert "alert(1)" in stored
        assert not re.search("</?script|<!--", stored)


def test_templates_are_drawn_on_their_own_wavelengths():
    sets = open_templates()
    panels = list(plots.plot_templates(sets))
    assert len(panels) == sum(bool(one.spectype) for one in sets)
    mean = panels[0].Curve.I
    assert mean["flux"] == pytest.approx(sets[0].vectors[0][:: max(1, sets[0].vectors.shape[1] // 1500)])
    hv.render(panels[0])
