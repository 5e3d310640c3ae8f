"""The vetting page: what a person says is stored at the click, found again, and shown for what it is."""

import json
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time

import numpy as np
import panel as pn
import pytest
import xarray as xr

from astrolab.dashboards.serve import RunFolderError, open_run, page, serve_run
from astrolab.dashboards.state import VettingState
from astrolab.dashboards.vetting import vetting_app
from astrolab.dashboards.views import facts_html, nearest_row, sky_links
from astrolab.plots import ranking_table
from astrolab.settings import settings
from astrolab.stores.catalog import connection as catalog_module
from astrolab.stores.catalog import open_catalog
from astrolab.stores.spectra import save_spectra

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


@pytest.fixture
def state(ranked, catalog):
    return VettingState(ranked, catalog, run_id="run", user="vera", model_version="m1")


def test_a_label_is_stored_at_the_click_and_found_again(state, ranked, catalog):
    state.step(1)
    state.comment = "a comment = text <b>"
    state.label("anomaly")
    assert re.fullmatch(r"stored ✓ \d\d:\d\d:\d\d UTC — \d+: anomaly", state.message)
    (row,) = catalog.verdicts("run").to_dict("records")
    assert row["targetid"] == ranked["targetid"].values[1]
    assert (row["label"], row["survey"], row["user"]) == ("anomaly", "main", "vera")
    assert (row["comment"], row["model_version"]) == ("a comment = text <b>", "m1")
    assert state.comment == ""  # the next object starts anew
    again = VettingState(ranked, catalog, run_id="run", user="vera")
    assert again.labels == state.labels == {1: "anomaly"}


def test_the_tick_shows_only_what_is_committed(state, catalog, monkeypatch):
    monkeypatch.setattr(catalog_module, "BUSY_TIMEOUT", 0.1)
    with open_catalog() as impatient:
        state._catalog = impatient
        holder = sqlite3.connect(settings().home / "catalog.db", isolation_level=None)
        try:
            holder.execute("BEGIN IMMEDIATE")
            state.comment = "kept"
            state.label("anomaly")
        finally:
            holder.close()
    assert state.message.startswith("NOT stored: the catalog")
    assert state.is_error
    assert "✓" not in state.message
    assert state.labels == {}
    assert state.comment == "kept"
    assert len(catalog.verdicts()) == 0


def test_undo_takes_back_the_last_label_and_goes_there(state, catalog):
    state.label("regular")
    state.step(2)
    state.label("anomaly")
    state.step(5)
    state.undo()
    assert state.labels == {0: "regular"}
    assert state.index == 2
    assert "undone ✓" in state.message
    state.undo()
    state.undo()
    assert state.labels == {}
    assert state.message == "nothing to undo"
    assert len(catalog.verdicts()) == 4  # nothing was deleted


def test_other_people_and_runs_stay_unseen(state, ranked, catalog):
    catalog.add_verdict("run", int(ranked["targetid"][0]), "anomaly", user="edwin")
    catalog.add_verdict("other", int(ranked["targetid"][0]), "anomaly", user="vera")
    assert VettingState(ranked, catalog, run_id="run", user="vera").labels == {}


def test_steps_stop_at_the_ends_and_addresses_lead_to_objects(state, ranked):
    state.step(-1)
    assert state.index == 0
    state.step(10_000)
    assert state.index == 59
    state.targetid = str(ranked["targetid"].values[7])
    assert state.index == 7
    assert int(state.spectrum["targetid"]) == ranked["targetid"].values[7]
    state.targetid = "12345"
    assert state.index == 7


def test_the_app_shows_itself_and_its_table_follows(ranked, catalog):
    app = vetting_app(ranked, catalog=catalog, user="vera")
    app.get_root()  # renders without a warning
    (table,) = app.select(pn.widgets.Tabulator)
    shown = table.value
    assert shown["targetid"].tolist() == [str(i) for i in ranked["targetid"].values]
    assert shown["rank"].tolist() == list(range(1, 61))
    next_button = next(b for b in app.select(pn.widgets.Button) if "Next" in b.label)
    anomaly = next(b for b in app.select(pn.widgets.Button) if "Anomaly" in b.label)
    next_button.clicks += 1
    assert table.selection == [1]
    anomaly.clicks += 1
    assert table.value["label"].tolist()[:3] == ["", "anomaly", ""]
    table.selection = [25]
    next_button.clicks += 1
    assert table.selection == [26]
    assert table.page == 2
    assert catalog.verdicts("notebook")["targetid"].tolist() == [ranked["targetid"].values[1]]


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


def test_every_session_has_its_own_state(run_dir, catalog):
    run = open_run(run_dir)
    one, other = (page(run, catalog, user="vera") for _ in range(2))
    next_button = next(b for b in one.main[0].select(pn.widgets.Button) if "Next" in b.label)
    next_button.clicks += 1
    tables = [p.main[0].select(pn.widgets.Tabulator)[0] for p in (one, other)]
    assert [table.selection for table in tables] == [[1], [0]]


@pytest.fixture
def server(run_dir, tmp_path):
    """The real server in a process of its own; gives its address and process."""
    code = "import sys; from astrolab.dashboards.serve import serve_run; serve_run(sys.argv[1])"
    log_path = tmp_path / "server.log"
    with log_path.open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", code, str(run_dir)], stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 90
        while not (found := re.search(r"http://127\.0\.0\.1:\d+/", log_path.read_text())):
            assert process.poll() is None, log_path.read_text()
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.2)
        yield found.group(), process
    finally:
        process.terminate()
        process.wait(timeout=20)
    assert "Traceback" not in log_path.read_text(), log_path.read_text()


@pytest.fixture
def browser():
    """A real headless Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    quiet = ["--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--no-first-run", *quiet]
        )
        yield browser
        browser.close()


def open_page(browser, address, problems, **options):
    """Open the page and note every console error, page error and request to elsewhere."""
    view = browser.new_page(viewport={"width": 1366, "height": 768}, **options)
    view.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    view.on("pageerror", lambda e: problems.append(str(e)))
    is_own = re.compile(r"(http|ws)://127\.0\.0\.1:\d+/|data:|blob:").match
    view.on("request", lambda r: None if is_own(r.url) else problems.append(f"asked {r.url}"))
    view.goto(address)
    view.get_by_text("of 60 labelled").wait_for(timeout=60_000)
    view.locator(".bk-Canvas, canvas").first.wait_for(timeout=60_000)
    return view


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
def test_a_person_vets_in_a_browser(server, browser, ranked, run_dir, catalog, tmp_path):
    address, process = server
    problems = []
    view = open_page(browser, address, problems)
    names = [str(i) for i in ranked["targetid"].values]
    view.get_by_text(f"#1 · {names[0]} · no label yet").wait_for()

    view.get_by_role("button", name="Next (n)").click()
    view.get_by_text(f"#2 · {names[1]} · no label yet").wait_for()
    view.get_by_text("‹script>window.hacked=1‹/script> first", exact=False).first.wait_for()
    reason = view.locator('.tabulator-row [tabulator-field="first reason"]').nth(1)
    reason.scroll_into_view_if_needed()
    reason.hover()
    view.wait_for_timeout(1000)
    assert view.evaluate("window.hacked") is None  # its reasons are a script: shown, not run
    view.get_by_label("Comment").fill("an a in a field is no label")
    view.get_by_role("button", name="Anomaly").click()
    view.get_by_text(re.compile(r"stored ✓ \d\d:\d\d:\d\d UTC")).wait_for()
    view.get_by_text("1 of 60 labelled").wait_for()
    view.screenshot(path=tmp_path / "labelled.png")

    view.reload()
    view.get_by_text(f"#2 · {names[1]} · your label: anomaly").wait_for(timeout=60_000)
    row = catalog.verdicts(open_run(run_dir).run_id).iloc[0]
    assert (row["targetid"], row["label"]) == (int(names[1]), "anomaly")
    assert row["comment"] == "an a in a field is no label"

    view.keyboard.press("n")
    view.get_by_text(f"#3 · {names[2]} · no label yet").wait_for()
    view.get_by_label("Comment").click()
    view.keyboard.type("nbarux")
    view.keyboard.press("Escape")
    view.keyboard.press("r")
    view.get_by_text(f"#3 · {names[2]} · your label: regular").wait_for()
    assert catalog.verdicts().iloc[-1]["comment"] == "nbarux"
    view.keyboard.press("Control+z")
    view.get_by_text("undone ✓").wait_for()
    view.get_by_text(f"#3 · {names[2]} · no label yet").wait_for()
    view.get_by_role("gridcell", name=names[5]).click()
    view.get_by_text(f"#6 · {names[5]} · no label yet").wait_for()
    latent = view.locator(".bk-Canvas").last.bounding_box()
    view.mouse.click(latent["x"] + 0.3 * latent["width"], latent["y"] + 0.3 * latent["height"])
    view.get_by_text(f"#6 · {names[5]}").wait_for(state="detached")

    dark = open_page(browser, address, problems, color_scheme="dark")
    background = dark.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in re.findall(r"\d+", background)[:3]) < 80
    dark.screenshot(path=tmp_path / "dark.png")
    size = dark.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert size == [1366, 768]  # nothing is cut off
    assert problems == []
    assert b" 403 " in answer_to_foreign_page(address)

    process.terminate()
    view.get_by_text("The connection to the server is lost").wait_for()
