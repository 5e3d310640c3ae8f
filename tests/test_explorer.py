"""The explorer: what is counted, selected, stacked and exported is what plain numpy says."""

import asyncio
import gc
import io
import json
from html import unescape

import numpy as np
import pandas as pd
import panel as pn
import pytest
from bokeh.events import SelectionGeometry

import astrolab as al
from astrolab.dashboards import explorer_state
from astrolab.dashboards.explorer import (
    explorer_app,
    explorer_layout,
    open_survey,
    selection_file,
    selection_html,
    strangest_html,
)
from astrolab.dashboards.explorer_grid import count_cells, within_polygon
from astrolab.dashboards.explorer_plots import Histogram, LatentMap, SkyMap, drawn_shape
from astrolab.dashboards.explorer_sky import ORDER, healpix_pixels, pixel_area, pixel_density, sky_raster
from astrolab.dashboards.explorer_stack import StackSource, StackView, draw_sample, stack_spectra
from astrolab.dashboards.explorer_state import Box, ExplorerState, Lasso, Survey
from astrolab.stores.publish import StoreError
from astrolab.vetting.exchange import export_objects

# Bokeh calls pandas in a way that pandas is about to give up
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.reset_index")

N = 5000
FIRST_ID = 39_627_652_591_521_181  # above 2**53


@pytest.fixture(scope="module")
def table():
    """A ranking of random numbers, some of them unknown."""
    rng = np.random.default_rng(5)
    table = {f"latent_{k}": rng.normal(0, k + 1, N).astype("f4") for k in range(4)}
    table |= {
        "targetid": FIRST_ID + rng.permutation(N),
        "survey": np.where(rng.random(N) < 0.5, "main", "=sv3").astype(object),
        "ra": rng.uniform(0, 360, N),
        "dec": np.degrees(np.arcsin(rng.uniform(-1, 1, N))),
        "redshift": np.where(rng.random(N) < 0.02, np.nan, rng.uniform(0.1, 3.5, N)),
        "snr": rng.lognormal(1, 1, N).astype("f4"),
        "anomaly_score": np.sort(rng.gamma(2, 1, N))[::-1].astype("f4"),
        "anomaly_rank": np.arange(1, N + 1, dtype="int32"),
    }
    return pd.DataFrame(table)


@pytest.fixture
def state(table):
    return ExplorerState(Survey(table, offered=table["targetid"].to_numpy()[:50]))


# --- kernels


def test_cells_are_those_of_a_plain_histogram():
    rng = np.random.default_rng(0)
    x, y, value = (rng.normal(size=4000).astype("f4") for _ in range(3))
    x[:5], value[5:50] = np.nan, np.nan
    keep = rng.random(4000) < 0.3
    extent, shape = (-1.5, 2.0, -2.0, 1.0), (7, 11)
    cells = count_cells(x, y, value, keep, extent, shape)
    edges = [np.linspace(-2, 1, 8), np.linspace(-1.5, 2, 12)]
    known = np.isfinite(x)
    np.testing.assert_array_equal(cells.n_all, np.histogram2d(y[known], x[known], edges)[0])
    kept = known & keep
    np.testing.assert_array_equal(cells.n_kept, np.histogram2d(y[kept], x[kept], edges)[0])
    kept &= np.isfinite(value)
    total = np.histogram2d(y[kept], x[kept], edges, weights=value[kept])[0]
    n_value = np.histogram2d(y[kept], x[kept], edges)[0]
    np.testing.assert_allclose(cells.mean[n_value > 0], (total / np.maximum(n_value, 1))[n_value > 0], rtol=1e-5)
    assert np.isnan(cells.mean[n_value == 0]).all()


def test_a_lasso_holds_what_the_even_odd_rule_says():
    rng = np.random.default_rng(1)
    x, y = rng.uniform(-2, 2, (2, 500)).astype("f4")
    x[0] = np.nan
    angle = np.arange(5) * 4 * np.pi / 5  # a star: its middle is outside
    corners = np.cos(angle), np.sin(angle)
    truth = []
    for at in zip(x, y, strict=True):
        crossed = 0
        for x1, y1, x2, y2 in zip(np.roll(corners[0], 1), np.roll(corners[1], 1), *corners, strict=True):
            if (y1 > at[1]) != (y2 > at[1]):
                crossed += at[0] < x1 + (at[1] - y1) / (y2 - y1) * (x2 - x1)
        truth.append(crossed % 2 == 1)
    assert within_polygon(x, y, *corners).tolist() == truth
    assert sum(truth) > 5


def test_healpix_pixels_have_one_area_and_nest():
    rng = np.random.default_rng(2)
    ra, dec = rng.uniform(-180, 180, 400_000), np.degrees(np.arcsin(rng.uniform(-1, 1, 400_000)))
    fine = healpix_pixels(ra, dec)
    counts = np.bincount(healpix_pixels(ra, dec, 4), minlength=12 << 8)
    expected = 400_000 / len(counts)
    assert ((counts - expected) ** 2 / expected).mean() == pytest.approx(1, abs=0.15)
    for order in (0, 2, 4):
        np.testing.assert_array_equal(healpix_pixels(ra, dec, order), fine >> 2 * (ORDER - order))
    assert healpix_pixels(np.array([0.0, np.nan, 0.0]), np.array([91.0, 0.0, np.nan])).tolist() == [-1, -1, -1]


def test_healpix_pixels_are_those_of_others():
    # the example in the documentation of astropy-healpix
    assert healpix_pixels(np.array([1.0, 3.0, 4.0]), np.array([5.0, 6.0, 9.0]), 4).tolist() == [1217, 1217, 1222]
    spectra = al.simulate_survey(50, seed=0)  # which draws places within pixels by itself
    pixels = healpix_pixels(spectra["ra"].values, spectra["dec"].values, 6)
    np.testing.assert_array_equal(pixels, spectra["healpix"].values)


def test_the_sky_map_holds_every_object():
    rng = np.random.default_rng(3)
    ra, dec = rng.uniform(0, 360, 3000), np.degrees(np.arcsin(rng.uniform(-1, 1, 3000)))
    density = pixel_density(healpix_pixels(ra, dec), 3)
    assert np.nansum(density) * pixel_area(3) == pytest.approx(3000)
    raster = sky_raster(density, (0, 360, -90, 90), (90, 180), 3)
    at = healpix_pixels(np.array([1.0]), np.array([-89.0]), 3)
    np.testing.assert_array_equal(raster[0, 0], density[at][0])


# --- selection


def test_a_selection_is_within_every_limit(state, table):
    x, y, _ = state.survey.places
    state.limit("redshift", (2.0, 1.0))
    state.limit("map", Box(1.0, -2.0, -3.0, 3.0))
    state.limit("sky", Lasso((0, 200, 200, 0), (-60, -60, 60, 60)))
    truth = table["redshift"].between(1, 2).to_numpy() & (x >= -2) & (x <= 1) & (np.abs(y) <= 3)
    truth &= (table["ra"] < 200).to_numpy() & (table["dec"].abs() < 60).to_numpy()
    np.testing.assert_array_equal(state.keep, truth)
    assert 0 < state.n_selected == truth.sum()
    assert state.words() == ["redshift 1 to 2", "drawn on the map", "drawn on the sky"]
    state.limit("redshift", None)
    state.undo()
    np.testing.assert_array_equal(state.keep, truth)
    state.clear()
    assert state.n_selected == N
    state.undo()
    assert state.n_selected == truth.sum()
    with pytest.raises(ValueError, match="no column 'nothing'"):
        state.limit("nothing", (0, 1))


def test_every_figure_counts_the_selection(state, table):
    figures = [Histogram(state, "redshift"), Histogram(state, "snr", is_log=True), LatentMap(state), SkyMap(state)]
    assert figures[0].bars.data["kept"].sum() == table["redshift"].notna().sum()
    figures[2]._take(drawn("rect", x0=-2, x1=2, y0=-2, y1=2))
    kept = table[state.keep]
    assert 100 < len(kept) < N
    for one, column in zip(figures[:2], ("redshift", "snr"), strict=True):
        counts, _ = np.histogram(kept[column].dropna(), one.edges.astype("f4"))
        if column == "redshift":  # the first bar of S/N holds what is below it too
            np.testing.assert_array_equal(one.bars.data["kept"], counts)
        assert one.bars.data["kept"].sum() == kept[column].notna().sum()
        assert one.bars.data["all"].sum() == table[column].notna().sum()
    assert figures[2].cells.data["kept"][0].sum() == len(kept)
    figures[0]._take(drawn("rect", x0=1, x1=2, y0=0, y1=1))
    assert state.n_selected == kept["redshift"].between(1, 2).sum()
    assert figures[0].brush.visible
    state.clear()
    assert not figures[0].brush.visible
    assert figures[2].cells.data["kept"][0].sum() == N


def drawn(kind, **corners):
    return SelectionGeometry(None, geometry={"type": kind, **corners}, final=True)


def test_the_map_takes_the_colour_and_scale_that_are_asked_for(state, table):
    figure = LatentMap(state)
    assert "anomaly score" in figure.figure.title.text
    state.color = "snr"
    assert "mean S/N" in figure.figure.title.text
    value, kept = figure.cells.data["value"][0], figure.cells.data["kept"][0]
    assert np.nansum(value.astype("f8") * kept) == pytest.approx(table["snr"].sum(), rel=1e-4)
    state.scale = "logarithmic"
    assert figure.bar.color_mapper is figure.mappers["logarithmic"]
    state.color = "latent_0"
    state.limit("latent_0", (-50, -0.01))
    assert "no value is above 0" in figure.figure.title.text
    figure.figure.x_range.update(start=100, end=101)  # nothing there
    figure.draw()
    assert figure.cells.data["kept"][0].sum() == 0
    figure.figure.x_range.update(start=float("nan"), end=101)
    figure.draw()


@pytest.mark.parametrize(
    "forged",
    [
        {},
        {"type": "rect", "x0": None, "x1": 1, "y0": 0, "y1": 1},
        {"type": "rect", "x0": float("nan"), "x1": 1, "y0": 0, "y1": 1},
        {"type": "rect", "x0": 1, "x1": 1, "y0": 0, "y1": 1},
        {"type": "poly", "x": [0, 1], "y": [0, 1]},
        {"type": "poly", "x": [0, 1, 2], "y": [0, 1]},
        {"type": "poly", "x": "<script>", "y": [0, 1, 2]},
        {"type": "poly", "x": 3, "y": 4},
    ],
    ids=range(8),
)
def test_what_encloses_nothing_is_no_selection(forged):
    assert drawn_shape(forged) is None
    assert len(drawn_shape({"type": "poly", "x": range(10**5), "y": range(10**5)}).x) < 1001


def test_columns_are_read_when_they_are_looked_at(table, tmp_path, monkeypatch):
    path, asked = tmp_path / "ranking.parquet", []
    table.to_parquet(path)
    read = explorer_state.pq.read_table
    monkeypatch.setattr(
        explorer_state.pq, "read_table", lambda path, columns: asked.extend(columns) or read(path, columns=columns)
    )
    survey = Survey(path)
    assert (survey.n_objects, asked) == (N, [])
    np.testing.assert_array_equal(survey.column("snr"), table["snr"])
    survey.column("snr")
    assert asked == ["snr"]
    assert survey.column("redshift").dtype == "float32"
    assert survey.targetid.tolist() == table["targetid"].tolist()


# --- stacks


def test_a_stack_is_what_a_loop_over_pixels_gives():
    rng = np.random.default_rng(4)
    flux, ivar = rng.normal(1, 0.3, (40, 60)), rng.uniform(0.5, 2, (40, 60))
    ivar[rng.random(ivar.shape) < 0.3] = 0
    ivar[2:, 7], ivar[:, 8] = 0, 0  # too few good spectra, and none
    mean, median = stack_spectra(flux, ivar), stack_spectra(flux, ivar, "median")
    for pixel in range(60):
        good = ivar[:, pixel] > 0
        assert mean.n_spectra[pixel] == good.sum()
        if good.sum() < 3:
            assert np.isnan([mean.flux[pixel], mean.low[pixel], median.flux[pixel]]).all()
            continue
        seen, weight = flux[good, pixel], ivar[good, pixel]
        assert mean.flux[pixel] == pytest.approx((seen * weight).sum() / weight.sum())
        assert median.flux[pixel] == pytest.approx(np.median(seen))
        assert (mean.low[pixel], mean.high[pixel]) == pytest.approx(tuple(np.percentile(seen, [16, 84])))
    spoilt = np.where(ivar > 0, flux, 1e30)
    np.testing.assert_array_equal(stack_spectra(spoilt, ivar).flux, mean.flux)
    good = ivar[0] > 0
    np.testing.assert_allclose(stack_spectra(flux[:1], ivar[:1]).flux[good], flux[0, good])


def test_a_sample_is_bounded_and_comes_again():
    rows = np.random.default_rng(6).permutation(50_000)[:20_000]
    sample = draw_sample(rows, 1024)
    assert len(sample) == 200
    assert len(np.unique(sample // 1024)) <= 16
    assert set(sample) <= set(rows)
    np.testing.assert_array_equal(sample, draw_sample(rows[::-1], 1024))
    assert set(sample) != set(draw_sample(rows, 1024, seed=1))
    np.testing.assert_array_equal(draw_sample(np.array([5, 3]), 1024), [3, 5])


def test_the_stack_of_a_selection_is_of_its_spectra(run_dir, quasars, rest_quasars):
    survey, source = opened(run_dir)
    state = ExplorerState(survey)
    state.limit("redshift", (1.5, 1.8))
    view = StackView(state, source)
    view.stack()
    is_chosen = (quasars["redshift"] >= np.float32(1.5)) & (quasars["redshift"] <= np.float32(1.8))
    chosen = rest_quasars.isel(object=is_chosen.values)
    assert f"mean of all {chosen.sizes['object']} selected" in view.figure.title.text
    truth = np.ma.average(chosen["flux"].values, weights=chosen["ivar"].values, axis=0)
    at = np.isin(chosen["wavelength_rest"].values, view.pixels.data["x"])
    assert at.sum() > 150
    np.testing.assert_allclose(view.pixels.data["flux"], truth[at], rtol=1e-4)
    state.clear()
    assert "has changed" in view.message.object
    view.stack()
    assert "mean of a random 200 (seed 0, from 3 blocks) of 300 selected" in view.figure.title.text
    state.limit("redshift", (50, 60))
    assert "nothing to stack" in view.message.object
    assert view.button.disabled


def test_without_the_store_the_run_folder_is_stacked(run_dir, rest_quasars):
    survey, source = opened(run_dir)
    kept = StackSource("/nowhere.zarr", source._ranked)
    rest, words = kept.read(survey.targetid)
    assert words == "all 40 selected that have a spectrum in the run folder; 260 more have not"
    assert rest.sizes["object"] == 40
    with pytest.raises(StoreError, match="none of the selected objects has a spectrum in the run folder"):
        kept.read(np.array([1]))
    view = StackView(ExplorerState(survey), StackSource("/nowhere.zarr"))
    view.stack()
    assert "NOT stacked" in view.message.object
    assert "no spectra store at '/nowhere.zarr'" in unescape(view.message.object)


# --- page


@pytest.fixture(scope="module")
def run_dir(scored, vae, quasars, rest_quasars, tmp_path_factory):
    """A run folder with what its template leaves of 300 objects, 40 of them with their spectra."""
    folder = tmp_path_factory.mktemp("runs")
    al.save_spectra(quasars, folder / "spectra.zarr", chunk_size=100)
    run = folder / "run"
    run.mkdir()
    top = al.attach_spectra(vae, rest_quasars, scored.ranking.head(40))
    al.save_spectra(top, run / "top.zarr", keep_order=True)
    al.save_table(scored.ranking, run / "ranking.parquet")
    record = {"template": "rank_anomalies", "started": "2026-01-01T00:00:00+00:00", "status": "succeeded"}
    record["inputs"] = [{"parameter": "spectra_path", "path": str(folder / "spectra.zarr")}]
    (run / "run.json").write_text(json.dumps(record))
    return run


def opened(run_dir):
    return open_survey(run_dir, al.open_spectra(run_dir / "top.zarr"))


def test_the_page_of_a_run_renders(run_dir):
    survey, source = opened(run_dir)
    state = ExplorerState(survey)
    page = explorer_layout(state, source, "./")
    page.get_root()
    words = " ".join(pane.object for pane in page.select(pn.pane.HTML))
    assert "300 objects" in words
    assert "Vet the 40 with a spectrum here" in words
    low, high = page.select(pn.widgets.FloatInput)
    select = next(button for button in page.select(pn.widgets.Button) if button.label == "Select")
    low.value = 1.5
    select.clicks += 1
    assert state.limits == {"redshift": (1.5, np.inf)}
    high.value = 1.0  # the wrong way round: taken as it is meant
    select.clicks += 1
    assert state.limits == {"redshift": (1.0, 1.5)}
    clear = next(button for button in page.select(pn.widgets.Button) if button.label == "Clear selection")
    clear.clicks += 1
    assert (state.limits, low.value, clear.disabled) == ({}, None, True)


def test_the_face_shows_a_dataset_and_a_table(run_dir, table):
    explorer_app(al.open_spectra(run_dir / "top.zarr")).get_root()
    explorer_app(run_dir / "ranking.parquet").get_root()
    page = explorer_app(table[["targetid", "anomaly_rank"]])
    page.get_root()
    words = " ".join(pane.object for pane in page.select(pn.pane.HTML))
    for what in ("No map", "No sky", "No histogram of redshift", "No histogram of S/N"):
        assert what in words
    assert "nothing to explore" in explorer_app(table.iloc[:0])[0].object
    with pytest.raises(ValueError, match="no 'targetid'"):
        explorer_app(table.drop(columns="targetid"))


def test_an_empty_selection_says_what_to_do(state):
    state.limit("redshift", (90, 91))
    assert "Nothing is selected" in selection_html(state)
    assert "Undo, or clear" in selection_html(state)
    assert strangest_html(state) == ""
    for view in (LatentMap, SkyMap):
        assert view(state).cells.data["all"][0].size > 1


def test_the_strangest_lead_to_the_vetting_page(state, table):
    state.limit("snr", (5, 1e9))
    html = strangest_html(state, "./")
    chosen = table[state.keep]
    first = [f">{targetid}<" in html for targetid in chosen.nsmallest(6, "anomaly_rank")["targetid"]]
    assert first == [True] * 5 + [False]
    word = html.split("?among=")[1].split('"')[0]
    assert state.survey.handed_over(word) == set(chosen["targetid"]) & set(table["targetid"][:50])
    assert state.survey.handed_over("unknown") is None
    state.limit("anomaly_rank", (60, 100))
    assert "None is among the 50" in strangest_html(state, "./")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_selection_is_exported_exactly(state, table, kind):
    state.limit("redshift", (1, 2))
    file = selection_file(state, kind)
    found = pd.read_csv(file) if kind == "csv" else pd.read_parquet(file)
    chosen = table[state.keep]
    assert found["targetid"].tolist() == chosen["targetid"].tolist()
    np.testing.assert_allclose(found["redshift"], chosen["redshift"], rtol=1e-12)
    assert set(found["survey"]) == ({"main", "'=sv3"} if kind == "csv" else {"main", "=sv3"})
    with pytest.raises(ValueError, match="expected one of: csv, parquet"):
        export_objects(chosen, "xlsx")
    assert isinstance(file, io.BytesIO)


def test_a_page_that_is_closed_while_it_is_sent_to_is_no_news(caplog):
    from tornado.websocket import WebSocketClosedError

    import astrolab.dashboards.serve  # noqa: F401 what it serves with listens to asyncio

    async def fail(error):
        raise error

    async def forget():
        for error in (WebSocketClosedError(), ValueError("the map is gone")):
            task = asyncio.ensure_future(fail(error))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            del task
            gc.collect()

    asyncio.run(forget())
    assert [str(record.exc_info[1]) for record in caplog.records] == ["the map is gone"]
