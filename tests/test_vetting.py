"""The vetting page: what a person says is stored at the click, found again, and shown for what it is."""

import json
import re
import shutil
import socket
import sqlite3
import time

import numpy as np
import panel as pn
import pytest
import xarray as xr
from bokeh.events import SelectionGeometry

from astrolab.dashboards.cache import SpectrumCache
from astrolab.dashboards.facts import facts_html, facts_view, image_html, sky_links
from astrolab.dashboards.keyboard import HELP, Keyboard, keyboard_view
from astrolab.dashboards.latent_map import latent_view, nearest_row, rows_within
from astrolab.dashboards.order import merged_order
from astrolab.dashboards.progress import campaign_html, export_view
from astrolab.dashboards.serve import RunFolderError, open_run, page, serve_run
from astrolab.dashboards.spectrum_card import spectrum_view
from astrolab.dashboards.state import VettingState
from astrolab.dashboards.tables import chosen_view, queue_view, ranking_view
from astrolab.dashboards.team import agreement_html
from astrolab.dashboards.template_match import match_view
from astrolab.dashboards.thinning import thinned_rows
from astrolab.dashboards.vetting import vetting_app, vetting_layout
from astrolab.plots import ranking_table
from astrolab.settings import settings
from astrolab.stores.catalog import connection as catalog_module
from astrolab.stores.catalog import open_catalog
from astrolab.stores.spectra import save_spectra
from astrolab.vetting.campaigns import open_campaign
from astrolab.vetting.exchange import read_verdicts
from astrolab.vetting.run_folder import ranking_columns

# Bokeh calls pandas in a way that pandas is about to give up
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.reset_index")

FIRST_ID = 39627652591521181  # above 2**53: a browser's number would end in 0
PAYLOAD = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'


@pytest.fixture(scope="session")
def ranked():
    """Quasar-like spectra in rank order, with masked pixels; no model was trained for them."""
    rng = np.random.default_rng(3)
    n_objects, n_wavelength = 60, 700
    wavelength = np.geomspace(1216, 2900, n_wavelength)
    lines = [(1240, 12, 1.5), (1397, 18, 0.4), (1549, 16, 1.2), (1909, 25, 0.6), (2799, 25, 0.5)]
    shape = (wavelength / 2000) ** -1.6 + sum(a * np.exp(-0.5 * ((wavelength - c) / w) ** 2) for c, w, a in lines)
    model = shape * rng.uniform(0.8, 1.2, (n_objects, 1))
    ivar = rng.uniform(30, 90, model.shape)
    flux = model + rng.normal(size=model.shape) / np.sqrt(ivar)
    flux[0] *= 1 - 0.8 * np.exp(-0.5 * ((wavelength - 1500) / 12) ** 2)
    ivar[:, 350:356] = 0
    ivar[3, :120] = 0
    reasons = np.array(["missing flux blueward of C IV at 14.2σ; reconstruction χ² per pixel 3.1"] * n_objects, object)
    reasons[1] = f"{PAYLOAD} first; second & last"
    score = np.sort(rng.gamma(2, 1, n_objects))[::-1].astype("f4")
    spectral, of_object = ("object", "wavelength_rest"), "object"
    return xr.Dataset(
        {
            "flux": (spectral, flux.astype("f4"), {"units": "median flux of the spectrum"}),
            "ivar": (spectral, ivar.astype("f4")),
            "flux_model": (spectral, model.astype("f4")),
            "latent": (("object", "latent_dim"), rng.normal(size=(n_objects, 8)).astype("f4")),
        },
        coords={
            "wavelength_rest": wavelength,
            "targetid": (of_object, FIRST_ID + np.arange(n_objects)[::-1]),
            "ra": (of_object, rng.uniform(0, 360, n_objects)),
            "dec": (of_object, rng.uniform(-20, 60, n_objects)),
            "redshift": (of_object, rng.uniform(1.8, 3, n_objects)),
            "redshift_err": (of_object, np.full(n_objects, 1e-4)),
            "redshift_warning": (of_object, np.zeros(n_objects, "i8")),
            "spectype": (of_object, np.array(["QSO"] * n_objects, object)),
            "survey": (of_object, np.array(["main"] * n_objects, object)),
            "snr": (of_object, rng.lognormal(1.5, 0.5, n_objects).astype("f4")),
            "anomaly_score": (of_object, score),
            "anomaly_rank": (of_object, np.arange(1, n_objects + 1, dtype="i4")),
            "reasons": (of_object, reasons),
            "score_chi2": (of_object, score),
            "score_latent": (of_object, score),
        },
    )


@pytest.fixture(scope="session")
def run_dir(ranked, tmp_path_factory):
    """A run folder with what the page reads."""
    folder = tmp_path_factory.mktemp("runs") / "a-run"
    folder.mkdir()
    save_spectra(ranked, folder / "top.zarr", keep_order=True)
    ranking_table(ranked).drop(columns="name").to_parquet(folder / "ranking.parquet")
    record = {"template": "rank_anomalies", "started": "2026-01-01T00:00:00+00:00", "status": "succeeded"}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "model").mkdir()
    (folder / "model" / "weights.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def catalog():
    with open_catalog() as catalog:
        yield catalog


@pytest.fixture(scope="session")
def spectra(ranked):
    return SpectrumCache(ranked)


@pytest.fixture
def campaign(ranked, catalog):
    return open_campaign(catalog, "run", ranking_columns(ranked), model_version="m1", repeat_share=0.1)


@pytest.fixture
def state(spectra, campaign):
    return VettingState(spectra, campaign.session("vera", "vetter"), run_id="run")


def reopened(state, user="vera", role="vetter"):
    """The state as it is after a reload."""
    return VettingState(state.spectra, state.session._campaign.session(user, role), run_id="run")


def said(state):
    return {at: (verdict["label"], verdict["quality"]) for at, verdict in state.verdicts.items()}


def press(state, *keys):
    keyboard = keyboard_view(state)
    for number, key in enumerate(keys):
        keyboard._handle_msg({"key": key, "id": f"{id(keyboard)}-{number}"})


def test_a_verdict_is_stored_at_the_stroke_and_found_again(state, catalog):
    target = state.session.queue[0]
    state.comment = "a comment = text <b>"
    state.tags = ["BAL"]
    press(state, "R", "]", "c", "a", "4")
    assert re.fullmatch(r"stored ✓ \d\d:\d\d:\d\d UTC: \d+, quality 4", state.message)
    assert state.position == 1  # a quality goes on
    labelled, row = catalog.verdicts("run").to_dict("records")
    assert labelled["label"] == "anomaly"
    assert catalog.verdicts("run")["quality"].isna().tolist() == [True, False]
    assert (row["targetid"], row["survey"], row["user"]) == (target.targetid, "main", "vera")
    assert (row["label"], row["quality"], row["flags"], row["spectype"]) == ("anomaly", 4, "R", "QSO")
    assert (row["comment"], row["model_version"]) == ("BAL; a comment = text <b>", "m1")
    assert row["seconds_spent"] >= 0
    ranked_at = state.table["redshift"].iloc[state.row_of[0]]
    assert row["redshift"] == pytest.approx((1 + ranked_at) * 1.001 - 1, abs=1e-6)
    assert (state.comment, state.flags, state.tags, state.spectype) == ("", [], [], "")  # the next object starts anew
    again = reopened(state)
    assert said(again) == said(state) == {0: ("anomaly", 4)}
    assert again.position == 1  # where one stopped
    again.step(-1)
    assert (again.comment, again.tags, again.flags) == ("a comment = text <b>", ["BAL"], ["R"])
    assert again.redshift == row["redshift"]


def test_a_verdict_holds_the_class_and_redshift_that_were_looked_at(state, catalog):
    ranked_at = state.redshift_ranked
    press(state, "4")
    (row,) = catalog.verdicts("run").to_dict("records")
    assert (row["quality"], row["spectype"], row["redshift"]) == (4, "QSO", ranked_at)
    state.step(-1)
    assert (state.spectype, state.redshift) == ("", ranked_at)  # nothing was changed


def test_a_stroke_that_is_sent_twice_is_stored_once(state, catalog):
    keyboard = keyboard_view(state)
    for _ in range(2):
        keyboard._handle_msg({"key": "a", "id": "1"})
    assert len(catalog.verdicts()) == 1
    for forged in ("a", None, {"key": ["a"]}, {"key": "Delete", "id": "2"}, {"id": "3"}):
        keyboard._handle_msg(forged)
    assert len(catalog.verdicts()) == 1


def test_every_key_of_the_help_does_something(state):
    keys = {"Esc", "?", "z", "/"}  # the browser's own
    known = keys | set(keyboard_view(state)._actions)
    for listed, _ in HELP:
        for key in re.findall(r"Ctrl\+Z|Shift\+.|Esc|(?<![A-Za-z+])\S(?![A-Za-z+])", listed.replace("…", "")):
            name = {"Ctrl+Z": "Ctrl+z"}.get(key, key.removeprefix("Shift+"))
            assert name in known, (listed, key)


def test_the_tick_shows_only_what_is_committed(state, catalog, monkeypatch):
    monkeypatch.setattr(catalog_module, "BUSY_TIMEOUT", 0.1)
    with open_catalog() as impatient:
        state.session._campaign.catalog = impatient
        holder = sqlite3.connect(settings().home / "catalog.db", isolation_level=None)
        try:
            holder.execute("BEGIN IMMEDIATE")
            state.comment = "kept"
            press(state, "3")
        finally:
            holder.close()
    assert state.message.startswith("NOT done: the catalog")
    assert state.is_error
    assert state.verdicts == {}
    assert (state.comment, state.position) == ("kept", 0)
    assert len(catalog.verdicts()) == 0


def test_undo_takes_back_the_last_verdict_and_goes_there(state, catalog):
    press(state, "r", "4", "n", "1", "b", "b", "u")
    assert said(state) == {0: ("regular", 4)}
    assert state.position == 2
    assert state.message.startswith("undone ✓")
    press(state, "Ctrl+z")
    assert said(state) == {0: ("regular", None)}  # what stood there before
    press(state, "u", "u")
    assert state.verdicts == {}
    assert "there is nothing to undo" in state.message
    assert len(catalog.verdicts()) == 6  # nothing was deleted


def test_an_object_shown_again_looks_new_until_its_second_verdict(state):
    queue = state.session.queue
    again = next(at for at in range(60) if queue[at].targetid in {slot.targetid for slot in queue[:at]})
    first = next(slot.position for slot in queue if slot.targetid == queue[again].targetid)
    state.position = first
    press(state, "a")
    state.position = again
    assert state.verdict is None
    press(state, "r")
    assert said(state) == said(reopened(state)) == {first: ("anomaly", None), again: ("regular", None)}


def test_what_is_typed_and_not_stored_is_kept_and_said(state):
    press(state, "R")
    state.comment = "later"
    press(state, "n")
    assert "NOT stored" in state.message
    assert state.is_error
    assert state.comment == ""
    press(state, "b")
    assert (state.comment, state.flags) == ("later", ["R"])


def test_others_are_unseen_and_a_viewer_may_not_write(state, catalog):
    other = reopened(state, "edwin")
    other.go_to_row(state.row)
    press(other, "x")
    assert state.verdicts == reopened(state).verdicts == {}
    viewer = reopened(state, "bob", "viewer")
    press(viewer, "4")
    assert "'bob' is a viewer and may not store verdicts" in viewer.message
    assert viewer.position == 0
    assert len(catalog.verdicts()) == 1
    app = vetting_layout(viewer)
    assert all(b.disabled for b in app.select(pn.widgets.Button) if "Anomaly" in b.label or b.label in "01234")


def test_steps_stop_at_the_ends_and_addresses_lead_to_objects(state):
    state.step(-1)
    assert state.position == 0
    state.step(10_000)
    assert state.position == len(state.session.queue) - 1
    assert state.message == f"this is the end of your queue; places without a verdict: {len(state.order)}"
    state.go_to_row(7)
    assert state.row == 7
    assert state.targetid == state.table["name"].iloc[7]
    state.targetid = "12345"
    assert state.row == 7


def test_at_the_end_it_is_said_what_to_do_next(state):
    n_places = len(state.session.queue)
    for left in range(n_places - 1, -1, -1):
        state.store(quality=left % 5)
    assert state.position == n_places - 1
    assert state.message.startswith("stored ✓")
    assert state.message.endswith("; your queue is finished: 'Progress and recall' says what to do next")
    again = reopened(state)
    assert again.message == "your queue is finished: 'Progress and recall' says what to do next"
    again.choose([again.row_of[3]])
    again.step(10)
    assert again.message == "what you chose is finished: clear the selection to go on"
    viewer = reopened(state, "bob", "viewer")
    assert viewer.message == ""
    viewer.step(10_000)
    assert viewer.message == "this is the end of your queue"


def test_redshifts_are_one_key_away(ranked, catalog):
    best = ranked.isel(object=slice(0, 5)).assign_coords(redshift_best=("object", np.full(5, 0.5)))
    best["redshift"][1] = np.nan
    campaign = open_campaign(catalog, "other", ranking_columns(best))
    state = VettingState(SpectrumCache(best), campaign.session("vera", "vetter"), run_id="other")
    state.go_to_row(0)
    press(state, "v")
    assert state.redshift == 0.5
    press(state, "v")
    assert state.redshift == state.redshift_ranked
    press(state, "]", "}", "{", "[")
    assert state.redshift == pytest.approx(state.redshift_ranked, abs=1e-5)
    press(state, "v", "e")
    assert state.redshift == state.redshift_ranked
    state.go_to_row(1)
    assert state.redshift is None
    spectrum_view(state)  # without a redshift there are no line names


def figures(view):
    return view.select(pn.pane.Bokeh)[0].object.children


def test_the_figures_stay_and_their_sources_follow(state, ranked):
    view = spectrum_view(state)
    flux, residual = figures(view)
    pixels = flux.select_one({"name": "model"}).data_source
    press(state, "n", "s", "s")
    row = state.row
    assert figures(view)[0] is flux
    assert ranked["targetid"].values[row] == int(state.targetid)
    good = ranked["ivar"].values[row] > 0
    assert np.isfinite(pixels.data["flux"]).tolist() == good.tolist()
    sigma = (ranked["flux"] - ranked["flux_model"]).values[row] * np.sqrt(ranked["ivar"].values[row])
    residuals = residual.select_one({"name": "residual"}).data_source
    np.testing.assert_allclose(residuals.data["residual"][good], sigma[good], rtol=1e-4)
    assert flux.x_range is residual.x_range
    press(state, "o")
    np.testing.assert_allclose(pixels.data["x"], ranked["wavelength_rest"] * (1 + state.redshift), rtol=1e-6)
    press(state, "o", "l", "t", "m")
    assert not any(r.visible for name in ("lines", "model", "masks") for r in flux.select({"name": name}))


def test_a_zoom_stays_on_the_next_object(state):
    flux = figures(spectrum_view(state))[0]
    press(state, "n")
    assert (flux.x_range.start, flux.x_range.end) == pytest.approx((1216, 2900), abs=300)
    flux.x_range.update(start=1500, end=1600)
    press(state, "n", "4")
    assert (flux.x_range.start, flux.x_range.end) == (1500, 1600)
    press(state, "w")
    assert flux.x_range.end > 2500
    press(state, ".", ".")
    assert state.line
    assert flux.x_range.end - flux.x_range.start < 400


def test_ranking_again_keeps_the_queues_own_places(state):
    press(state, "g")
    assert "label at least one anomaly and one regular" in state.message
    before = state.order
    press(state, "a", "4", "r", "4", "a", "4", "x", "4", "g")
    assert "ranked again by 4 labels" in state.message
    assert sorted(state.order) == sorted(before)
    assert state.order[:4] == [0, 1, 2, 3]
    assert state.order != before
    assert [at for at in before if at in state.order[4:12]][:2] == [4, 5]  # every other place is the queue's own
    assert list(state.moves.columns) == ["new rank", "old rank", "moved", "targetid", "row", "why"]
    assert state.moves["why"].str.contains("labelled|most like").all()
    assert merged_order([0, 1, 2], set(), [5, 5, 6], [6, 5]) == [2, 0, 1]


def test_the_order_of_a_ranking_again_is_there_after_a_reload(state):
    press(state, "a", "4", "r", "4", "g")
    again = reopened(state)
    assert again.order == state.order != sorted(state.order)
    edwin = reopened(state, "edwin")
    assert edwin.order == list(range(len(edwin.session.queue)))
    with pytest.raises(ValueError, match="expected each of the"):
        state.session.keep_order(state.order[1:])
    with pytest.raises(PermissionError, match="viewer"):
        reopened(state, "bob", "viewer").session.keep_order(state.order)


def test_a_ranking_of_nothing_has_an_empty_queue(ranked, catalog):
    campaign = open_campaign(catalog, "nothing", ranking_columns(ranked.isel(object=[])))
    assert campaign.session("vera", "vetter").queue == ()


def test_a_choice_on_the_map_narrows_queue_and_tables(state):
    queue, by_rank, chip, one = queue_view(state), ranking_view(state), chosen_view(state), latent_view(state)
    figure = one[1].object
    xs, ys = ((axis.start, axis.end) for axis in (figure.x_range, figure.y_range))
    middle, top = sum(xs) / 2, ys[1]
    box = {"type": "rect", "x0": xs[0], "x1": middle, "y0": ys[0], "y1": top}
    figure._trigger_event(SelectionGeometry(figure, box, final=False))
    assert state.chosen is None
    figure._trigger_event(SelectionGeometry(figure, box, final=True))
    n_chosen = len(state.chosen)
    assert 0 < n_chosen < len(state.table)
    assert (chip.label, chip.visible) == (f"{n_chosen} selected · clear", True)
    assert (
        set(queue.value["targetid"]) == set(by_rank.value["targetid"]) == set(state.table["name"].iloc[[*state.chosen]])
    )
    for _ in range(70):
        press(state, "n")
        assert state.row in state.chosen
    assert "end of what you chose" in state.message
    by_rank.selection = [0]
    assert state.row == min(state.chosen)
    state.go_to_row(min(set(range(60)) - state.chosen))  # another object, by its address
    press(state, "n")
    assert state.row in state.chosen
    chip.clicks += 1
    assert state.chosen is None
    assert (len(queue.value), chip.visible) == (len(state.order), False)
    state.choose([])
    assert "nothing is chosen" in state.message


def test_exports_hold_what_the_role_may_have(state, tmp_path):
    press(state, "a", "4")
    edwin = reopened(state, "edwin")
    press(edwin, "r", "2")
    texts = {}
    for one in (state, reopened(state, "lea", "lead")):
        buttons = {button.label: button for button in export_view(one).select(pn.widgets.FileDownload)}
        assert list(buttons) == ["csv", "votable", "fits", "parquet", "prospect"]
        for kind, button in buttons.items():
            path = tmp_path / button.filename
            path.write_bytes(button.callback().read())
            rows = read_verdicts(path)
            assert {row["targetid"] for row in rows} <= {slot.targetid for slot in state.session.queue}, kind
            assert {row["user"] for row in rows} == ({"vera"} if one is state else {"vera", "edwin"}), kind
        texts[one.session.role] = buttons["csv"].callback().read().decode()
    assert "is_audit" in texts["lead"]
    assert "is_audit" not in texts["vetter"]  # it would say which objects were drawn at random
    bob = reopened(state, "bob", "viewer")
    assert "may not" in export_view(bob).object
    with pytest.raises(PermissionError, match="viewer and may not export"):
        bob.session.verdicts_to_export()


def test_an_image_is_asked_for_only_when_wanted(state):
    facts = facts_view(state)
    assert "<img" not in facts.object
    press(state, "i")
    assert 'src="https://www.legacysurvey.org/viewer/cutout.jpg?ra=' in facts.object
    assert 'onerror="this.remove()"' in facts.object
    assert image_html({"ra": np.nan, "dec": 1.0}) == ""


def test_templates_are_matched_when_asked_for(state):
    view = match_view(state)
    press(state, "p")
    table = view.select(pn.widgets.Tabulator)[0]
    found = table.value
    assert found["km/s"].str.fullmatch(r"[+-]\d+ ± (\d+|nan)").all()
    near, _ = state.spectra.neighbours(state.row, 6)
    known = found["like"].isin(state.table["name"].iloc[near])
    assert known.sum() >= 3
    speeds = found.loc[known, "km/s"].str.extract(r"([+-]\d+)")[0].astype(float)
    assert speeds.abs().median() < 500  # all were simulated at rest
    table.selection = [0]
    assert state.redshift == pytest.approx(found["z"].iloc[0], abs=1e-6)
    press(state, "n")
    assert "Press <b>Match" in view[1][0].object


def test_a_lasso_takes_what_it_encloses():
    places = np.array([[0.0, 0.0], [2.0, 2.0], [2.0, 0.0]])
    assert rows_within(places, {"type": "poly", "x": [1, 3, 3], "y": [-1, -1, 1]}).tolist() == [2]
    assert rows_within(places, {"type": "span"}).tolist() == []


def test_thinning_keeps_every_extreme_and_every_gap():
    rng = np.random.default_rng(0)
    x, flux = np.linspace(3600, 9824, 7781), rng.normal(size=7781)
    flux[5000], flux[3000:3400] = 60, np.nan
    rows = thinned_rows(x, flux, x[0], x[-1])
    assert len(rows) <= 2000
    for column in np.array_split(np.arange(7781 // 8 * 8), 7781 // 8):  # what a column of the screen shows
        if np.isfinite(flux[column]).any():
            kept = np.intersect1d(column, rows)
            assert {np.nanmin(flux[column]), np.nanmax(flux[column])} <= set(flux[kept])
    assert np.isnan(flux[rows]).sum() > 40
    zoomed = thinned_rows(x, flux, 5000, 5500)
    seen = np.flatnonzero((x >= 5000) & (x <= 5500))
    assert np.isin(seen, zoomed).all()
    assert (zoomed[0], zoomed[-1]) <= (8, 7780)


def test_a_zoom_asks_for_all_pixels(catalog, ranked):
    fine = ranked.isel(object=slice(0, 3)).interp(wavelength_rest=np.geomspace(1216, 2900, 7781), method="nearest")
    campaign = open_campaign(catalog, "fine", ranking_columns(fine))
    state = VettingState(SpectrumCache(fine), campaign.session("vera", "vetter"), run_id="fine")
    flux = figures(spectrum_view(state))[0]
    source = flux.select_one({"name": "model"}).data_source
    whole = source.data["x"]
    assert len(whole) <= 2000
    assert whole.dtype == np.float32  # half the bytes
    flux.x_range.update(start=1500, end=1600)
    wavelength = fine["wavelength_rest"].values
    n_pixels = np.count_nonzero((wavelength >= 1500) & (wavelength <= 1600))
    assert np.count_nonzero((source.data["x"] >= 1500) & (source.data["x"] <= 1600)) == pytest.approx(n_pixels, abs=2)


def test_numbers_of_the_campaign_and_the_team(state):
    press(state, "a", "4")
    html = campaign_html(state)
    assert "1 of 60 objects" in html
    assert "vet on" in html
    other = reopened(state, "lea", "lead")
    other.go_to_row(state.row_of[0])
    press(other, "r")
    assert "Krippendorff" in agreement_html(other.session)
    app = vetting_layout(other)
    for active in (1, 2, 3):
        app[0].active = active
    decide = next(b for b in app.select(pn.widgets.Button) if b.label == "It is: regular")
    decide.clicks += 1
    assert other.session.consensus_labels() == {state.session.queue[0].targetid: "regular"}


def test_the_app_shows_itself_and_its_table_follows(ranked, catalog):
    app = vetting_app(ranked, catalog=catalog, user="vera")
    app.get_root()  # renders without a warning
    queue = app.select(pn.widgets.Tabulator)[0]
    assert set(queue.value["targetid"]) == {str(i) for i in ranked["targetid"].values}
    next_button = next(b for b in app.select(pn.widgets.Button) if "Next" in b.label)
    anomaly = next(b for b in app.select(pn.widgets.Button) if "Anomaly" in b.label)
    next_button.clicks += 1
    assert queue.selection == [1]
    anomaly.clicks += 1
    assert queue.value["verdict"].tolist()[:3] == ["", "anomaly", ""]
    queue.selection = [25]
    next_button.clicks += 1
    assert queue.selection == [26]
    assert queue.page == 2
    anomaly.clicks += 1  # on a later page of the table
    assert queue.value["verdict"].iloc[26] == "anomaly"
    assert len(catalog.verdicts()) == 2
    assert isinstance(app.select(Keyboard)[0], Keyboard)


def test_nearest_is_as_the_eye_sees_it():
    places = np.array([[0.0, 0.0], [1000.0, 0.0], [0.0, 1.0]])
    assert nearest_row(places, 300.0, 0.1) == 0
    assert nearest_row(places, 300.0, 0.9) == 2
    assert nearest_row(places, 900.0, 0.4) == 1
    assert nearest_row(places[:1], 5.0, 5.0) == 0


def test_texts_are_inert_and_unknown_numbers_said():
    row = {"reasons": f"{PAYLOAD}; a & b", "redshift": np.nan, "snr": 3.0, "ra": 10.0, "dec": -5.0}
    html = facts_html(row)
    assert "<img" not in html
    assert "<script" not in html
    assert "&lt;img src=x" in html
    assert "z unknown" in html
    assert sky_links(np.nan, 1.0) == {}
    for address in sky_links(10.0, -5.0).values():
        assert address.startswith("https://")
        assert "10.000000" in address
        assert "-5.000000" in address


def test_nothing_ranked_says_what_to_do(ranked, catalog):
    app = vetting_app(ranked.isel(object=[]), catalog=catalog, user="vera", run_id="an <empty> run")
    app.get_root()
    (pane,) = app.select(pn.pane.HTML)
    assert "nothing to vet in an &lt;empty&gt; run" in pane.object
    assert "astrolab run rank_anomalies" in pane.object


def test_what_is_not_a_ranking_is_refused(ranked, catalog):
    with pytest.raises(ValueError, match="no 'reasons', expected what rank_anomalies"):
        vetting_app(ranked.drop_vars("reasons"), catalog=catalog, user="vera")


def test_a_run_folder_keeps_its_name_wherever_it_lies(run_dir, ranked, tmp_path):
    run = open_run(run_dir)
    assert run.run_id.startswith("rank_anomalies 2026-01-01T00:00:00+00:00 ")
    assert len(run.model_version) == 12
    assert run.ranked["targetid"].values.tolist() == ranked["targetid"].values.tolist()
    shutil.copytree(run_dir, tmp_path / "elsewhere")
    assert open_run(tmp_path / "elsewhere").run_id == run.run_id


def test_a_folder_that_is_no_run_says_what_is_missing(run_dir, tmp_path):
    with pytest.raises(RunFolderError, match=r"is not a folder, expected .* astrolab run rank_anomalies"):
        open_run(tmp_path / "nowhere")
    shutil.copytree(run_dir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "top.zarr")
    with pytest.raises(RunFolderError, match=r"has no top\.zarr, expected .* then: astrolab vet RUN_DIR"):
        serve_run(tmp_path / "run")
    (tmp_path / "run" / "top.zarr").mkdir()
    attack = {"template": PAYLOAD, "started": "2026-01-01T00:00:00+00:00"}
    for record in ("{}", "[]", "not JSON", json.dumps(attack)):
        (tmp_path / "run" / "run.json").write_text(record)
        with pytest.raises(RunFolderError, match=r"run\.json' is not the record of a run"):
            open_run(tmp_path / "run")


def test_a_port_in_use_is_refused(run_dir):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} is in use"):
            serve_run(run_dir, port=port)


def test_every_session_has_its_own_state(run_dir, spectra, campaign):
    run = open_run(run_dir)
    one, other = (page(run, spectra, campaign.session("vera", "vetter")) for _ in range(2))
    next_button = next(b for b in one.main[0].select(pn.widgets.Button) if "Next" in b.label)
    next_button.clicks += 1
    tables = [p.main[0].select(pn.widgets.Tabulator)[0] for p in (one, other)]
    assert [table.selection for table in tables] == [[1], [0]]


def test_a_catalog_that_does_not_answer_says_so(run_dir, spectra, campaign):
    session = campaign.session("vera", "vetter")
    (settings().home / "catalog.db").unlink()
    (shown,) = page(open_run(run_dir), spectra, session).main
    assert "does not answer" in shown.object
    assert "Nothing is lost" in shown.object


PEOPLE = {"vera": "vetter", "edwin": "vetter", "bob": "viewer"}


@pytest.fixture(scope="module")
def server(run_dir, tmp_path_factory, serve_vetting):
    """The real server in a process of its own, with a login; gives its address, process and catalog."""
    folder = tmp_path_factory.mktemp("server")
    url = f"sqlite:///{folder / 'catalog.db'}"
    with serve_vetting(run_dir, folder, people=PEOPLE) as served, open_catalog(url) as stored:
        yield *served, stored


def shown(view):
    view.locator("#current-verdict").wait_for(timeout=60_000)
    view.locator(".bk-Canvas, canvas").first.wait_for(timeout=60_000)
    view.locator("dialog").wait_for(state="attached", timeout=60_000)  # the keys are heard
    view.get_by_text("Map by score").wait_for()  # what is made late
    return view


def says(view, text):
    view.locator("#current-verdict").filter(has_text=text).wait_for()


def answer_to_foreign_page(address):
    """Return the server's answer to a page of another origin that wants its socket."""
    port = int(re.search(r":(\d+)/", address).group(1))
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            "Origin: http://evil.example\r\n\r\n".encode()
        )
        return connection.recv(1000).split(b"\r\n")[0]


@pytest.mark.browser
@pytest.mark.timeout(240)
def test_a_person_vets_by_keyboard_alone(server, visit):
    address, _, catalog = server
    problems = []
    view = shown(visit(address, problems, "vera"))
    view.get_by_role("note").get_by_role("button", name="Got it").click()
    press = view.keyboard.press
    for number in range(20):
        if number == 3:
            press("/")
            view.keyboard.type("4 é n")  # keys in a field are text
            press("Enter")
            press("Shift+R")
        press("ar"[number % 2])
        press(str(number % 5))
        view.get_by_text(f"{number + 1} of ").first.wait_for()
    view.get_by_text(re.compile(r"stored ✓ \d\d:\d\d:\d\d UTC|ranked again")).wait_for()
    deadline = time.monotonic() + 20
    while len(events := catalog.verdicts(user="vera")) < 40 and time.monotonic() < deadline:
        view.wait_for_timeout(100)
    assert len(events) == 40
    current = events[events["quality"].notna()]
    assert current["quality"].tolist() == [number % 5 for number in range(20)]
    assert current["label"].tolist() == ["anomaly", "regular"] * 10
    assert (current["comment"].iloc[3], current["flags"].iloc[3]) == ("4 é n", "R")

    press("Control+z")
    view.get_by_text("undone ✓").wait_for()
    says(view, "yours: regular")  # what stood there before
    press("u")
    says(view, "no verdict yet")
    view.get_by_text("19 of ").first.wait_for()
    here = view.url
    view.reload()
    shown(view)
    view.get_by_text("19 of ").first.wait_for()
    assert view.url == here  # the object that was looked at
    press("b")
    says(view, "yours: anomaly 3")

    press("?")
    help_page = view.get_by_role("dialog", name="Keys")
    help_page.get_by_text("undo my last verdict").wait_for()
    press("4")  # not while the help is open
    press("Escape")
    help_page.wait_for(state="hidden")
    press("z")
    view.keyboard.type("2.5")
    press("Escape")
    view.wait_for_url(re.compile("redshift=2.5"))
    press("s")
    view.wait_for_url(re.compile("smoothing=1"))
    assert len(catalog.verdicts(user="vera")) == 42
    press("g")
    view.get_by_text("ranked again by").wait_for()
    view.get_by_text("Ranked again", exact=True).click()
    view.get_by_text("labelled: anomaly").first.wait_for()
    view.get_by_text("Progress and recall", exact=True).click()
    view.get_by_text("May we stop?").wait_for()
    assert problems == []


@pytest.mark.browser
@pytest.mark.timeout(240)
def test_a_choice_an_export_and_a_page_enlarged_to_200_percent(server, visit, tmp_path):
    address, _, catalog = server
    problems = []
    options = {"viewport": {"width": 683, "height": 384}, "device_scale_factor": 2}
    view = shown(visit(address, problems, "vera", **options))
    view.get_by_role("note").get_by_role("button", name="Got it").click()
    assert view.evaluate("document.documentElement.scrollWidth") == 683  # all of it by scrolling down alone
    view.get_by_role("button", name="Artefact (x)").scroll_into_view_if_needed()
    view.set_viewport_size({"width": 1366, "height": 768})
    map_at = view.locator(".bk-Canvas, canvas").last.bounding_box()
    x, y = map_at["x"] + 0.35 * map_at["width"], map_at["y"] + 0.15 * map_at["height"]
    view.mouse.move(x, y)
    view.mouse.down()
    view.mouse.move(x + 60, y + 60, steps=4)
    view.mouse.move(x + 110, y + 110, steps=4)
    view.mouse.up()
    chip = view.get_by_role("button", name=re.compile(r"\d+ selected · clear"))
    chip.click()
    chip.wait_for(state="hidden")
    view.get_by_text("Progress and recall", exact=True).click()
    with view.expect_download() as download:
        view.get_by_text("csv", exact=True).click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    mine = catalog.verdicts(user="vera")
    standing = mine[mine["undoes"].isna() & ~mine["is_undone"]]
    assert [row["targetid"] for row in read_verdicts(path)] == standing["targetid"].tolist()
    assert problems == []


@pytest.mark.browser
@pytest.mark.timeout(240)
def test_people_are_blind_until_they_vote_and_locked_when_the_server_is_gone(server, visit, ranked, tmp_path):
    address, process, catalog = server
    problems = []
    names = [str(i) for i in ranked["targetid"].values]
    path = f"?targetid={names[1]}"  # its reasons are a script: shown, not run
    edwin = shown(visit(address + path, problems, "edwin", color_scheme="dark"))
    edwin.get_by_role("button", name="Got it").click()
    edwin.goto(address + path)
    shown(edwin)
    edwin.get_by_text("<script>window.hacked=1</script> first", exact=False).or_(
        edwin.get_by_text("‹script>window.hacked=1‹/script> first", exact=False)
    ).first.wait_for()
    edwin.wait_for_timeout(500)
    assert edwin.evaluate("window.hacked") is None
    said_before = catalog.verdicts(targetid=int(names[1]), user="vera")["is_current"].any()
    assert "vera" not in edwin.locator("#main").inner_text()
    edwin.get_by_role("button", name="Artefact (x)").click()
    says(edwin, "yours: artefact")
    if said_before:
        edwin.get_by_text("vera: ").wait_for()
    background = edwin.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in re.findall(r"\d+", background)[:3]) < 80
    edwin.screenshot(path=tmp_path / "dark.png")
    size = edwin.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert size == [1366, 768]  # nothing is cut off

    bob = shown(visit(address, problems, "bob"))
    for _ in range(25):
        bob.keyboard.press("n")
    bob.wait_for_url(re.compile("place=26"))
    bob.reload()
    bob.locator(".tabulator-selected").filter(has_text="26").wait_for()  # the table shows where one is
    bob.locator(".tabulator-page.active", has_text="2").wait_for()
    bob.get_by_text("you may look, not vote").wait_for()
    bob.keyboard.press("4")  # as a forged message would
    bob.get_by_text("'bob' is a viewer and may not store verdicts").wait_for()
    assert len(catalog.verdicts(user="bob")) == 0
    assert problems == []
    assert b" 403 " in answer_to_foreign_page(address)

    process.terminate()
    edwin.get_by_text("The connection to the server is lost").wait_for()
    assert edwin.evaluate("document.getElementById('main').inert")
