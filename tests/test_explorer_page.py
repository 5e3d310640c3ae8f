"""The explorer in a real Chromium: what is drawn on it selects, what it counts is what plain numpy counts."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from astrolab.plots import ranking_table
from astrolab.plots.rankings import latent_positions
from astrolab.stores.spectra import save_spectra

pytestmark = pytest.mark.browser

N = 3000
FIRST_ID = 39_627_652_591_521_181  # above 2**53: a browser's number would end in 0
_SOURCE = """
(name) => {
  const models = Bokeh.documents.flatMap((one) => [...one._all_models.values()])
  const data = models.find((one) => one.name === name).data
  const flat = (values) => [...(values[0]?.length === undefined ? values : values[0])]
  return Object.fromEntries(Object.entries(data).map(([key, values]) => [key, flat(values)]))
}
"""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run folder of quasar-like spectra: 3,000 ranked, all in the store, 60 kept for vetting."""
    rng, of, folder = np.random.default_rng(8), "object", tmp_path_factory.mktemp("runs")
    wavelength = np.arange(3600.0, 9824.0, 24.0)
    redshift = rng.uniform(0.5, 3, N)
    rest = wavelength / (1 + redshift[:, None])
    flux = (rest / 2000) ** -1.5 + 1.5 * np.exp(-0.5 * ((rest - 2799) / 25) ** 2)
    flux = (flux + rng.normal(0, 0.1, flux.shape)).astype("f4")
    score = np.sort(rng.gamma(2, 1, N))[::-1].astype("f4")
    columns = {
        "targetid": FIRST_ID + np.arange(N),
        "ra": rng.uniform(0, 360, N),
        "dec": rng.uniform(-20, 60, N),
        "redshift": redshift,
        "redshift_err": np.full(N, 1e-4),
        "redshift_warning": np.zeros(N, "i8"),
        "snr": rng.lognormal(1.5, 0.5, N).astype("f4"),
        "anomaly_score": score,
        "anomaly_rank": np.arange(1, N + 1, dtype="i4"),
    }
    texts = {"spectype": "QSO", "survey": "main", "reasons": "missing flux blueward of C IV at 14.2σ"}
    columns |= {name: np.full(N, text, object) for name, text in texts.items()}
    pixels = (of, "wavelength")
    ranked = xr.Dataset(
        {"flux": (pixels, flux), "ivar": (pixels, np.full_like(flux, 100))}
        | {"latent": ((of, "latent_dim"), rng.normal(size=(N, 4)).astype("f4"))},
        coords={"wavelength": wavelength} | {name: (of, values) for name, values in columns.items()},
    )
    save_spectra(ranked, folder / "spectra.zarr", chunk_size=500)
    run = folder / "run"
    run.mkdir()
    save_spectra(ranked.isel(object=slice(0, 60)), run / "top.zarr", keep_order=True)
    ranking_table(ranked).drop(columns="name").to_parquet(run / "ranking.parquet")
    record = {"template": "rank_anomalies", "started": "2026-01-01T00:00:00+00:00", "status": "succeeded"}
    record["inputs"] = [{"parameter": "spectra_path", "path": str(folder / "spectra.zarr")}]
    (run / "run.json").write_text(json.dumps(record))
    return run


@pytest.fixture(scope="module")
def address(run_dir, tmp_path_factory, serve_vetting):
    """The explorer of the real server, in a process of its own, with a login."""
    with serve_vetting(
        run_dir, tmp_path_factory.mktemp("server"), people={"vera": "vetter", "bob": "viewer"}
    ) as served:
        yield served[0] + "explore"


def opened(view):
    view.get_by_role("status").wait_for(timeout=60_000)
    view.wait_for_function("() => window.Bokeh?.documents.length && Bokeh.documents.every((one) => one.is_idle)")
    return view


def drag(view, at, left, right):
    """Draw a box on a figure, in parts of it."""
    box = view.locator(".bk-Figure").nth(at).bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (left, left, right)]
    view.mouse.move(*places[0])
    view.mouse.down()
    view.mouse.move(places[1][0] + 9, places[1][1] + 9)
    view.mouse.move(*places[2])
    view.mouse.up()


def says(view, text):
    view.get_by_role("status").filter(has_text=text).wait_for()


@pytest.mark.timeout(240)
def test_what_is_drawn_on_one_figure_is_counted_on_all(address, visit, run_dir, tmp_path):
    problems, table = [], pd.read_parquet(run_dir / "ranking.parquet")
    view = opened(visit(address, problems, "vera"))
    says(view, "3,000 objects, all selected")
    size = view.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert size == [1366, 768]

    # a box on the map
    drag(view, 0, (0.3, 0.3), (0.6, 0.7))
    says(view, "of 3,000 objects selected: drawn on the map")
    view.wait_for_timeout(500)
    positions, _ = latent_positions(table)
    x, y = positions["latent_x"].to_numpy("f4"), positions["latent_y"].to_numpy("f4")
    corners = next(
        source for source in view.evaluate(_ALL_SOURCES) if len(source.get("x", [])) == 4 and "value" not in source
    )
    is_in = (x >= min(corners["x"])) & (x <= max(corners["x"])) & (y >= min(corners["y"])) & (y <= max(corners["y"]))
    assert 100 < is_in.sum() < 2900
    says(view, f"{is_in.sum():,} of 3,000")
    bars = view.evaluate(_SOURCE, "redshift bars")
    edges = np.append(bars["left"], bars["right"][-1])
    np.testing.assert_array_equal(
        bars["kept"], np.histogram(table["redshift"][is_in].astype("f4"), edges.astype("f4"))[0]
    )
    assert sum(bars["all"]) == N
    assert sum(view.evaluate(_SOURCE, "snr bars")["kept"]) == is_in.sum()
    assert sum(view.evaluate(_SOURCE, "map cells")["kept"]) == is_in.sum()

    # a range on the redshifts, on top of it; undo; another colour
    drag(view, 1, (0.4, 0.4), (0.7, 0.6))
    says(view, "drawn on the map; redshift")
    low, high = map(float, re.search(r"redshift (\S+) to (\S+)", view.get_by_role("status").inner_text()).groups())
    n_both = int((is_in & table["redshift"].between(low, high)).sum())
    shown = int(re.search(r"([\d,]+) of", view.get_by_role("status").inner_text()).group(1).replace(",", ""))
    assert abs(shown - n_both) <= 2  # the words round the limits
    view.get_by_role("button", name="Undo").click()
    says(view, f"{is_in.sum():,} of 3,000")
    view.get_by_label("Colour the map by").select_option(label="redshift")
    view.wait_for_function(_SAYS, arg="mean redshift")
    cells = view.evaluate(_SOURCE, "map cells")
    value, kept = (np.array([v if isinstance(v, int | float) else np.nan for v in cells[k]]) for k in ("value", "kept"))
    assert np.nansum(value * kept) == pytest.approx(table["redshift"][is_in].sum(), rel=1e-4)

    # the wheel counts anew what is in view
    box = view.locator(".bk-Figure").nth(0).bounding_box()
    view.mouse.move(box["x"] + 0.45 * box["width"], box["y"] + 0.5 * box["height"])
    view.mouse.wheel(0, -600)
    view.wait_for_function(
        "(n) => Bokeh.documents.some((one) => [...one._all_models.values()].some("
        "(m) => m.name === 'map cells' && m.data.kept[0].reduce((a, b) => a + b) < n))",
        arg=int(is_in.sum()),
    )

    # stack, save, and take it to the vetting page
    view.get_by_role("button", name="Stack these spectra").click()
    view.wait_for_function(_SAYS, arg="mean of a random 200")
    view.screenshot(path=tmp_path / "stack.png")
    with view.expect_download() as download:
        view.get_by_text("Save as CSV").first.click()
    saved = pd.read_csv(download.value.path())
    assert saved["targetid"].tolist() == table["targetid"][is_in].tolist()
    n_offered = int(is_in[:60].sum())
    view.get_by_role("link", name=f"Vet the {n_offered} with a spectrum here").click()
    view.locator("#current-verdict").wait_for(timeout=60_000)
    view.get_by_text(f"{n_offered} selected objects come first in your queue").wait_for()
    view.locator("dialog").wait_for(state="attached", timeout=60_000)
    view.keyboard.press("n")
    view.wait_for_url(re.compile("targetid="))
    first = int(re.search(r"targetid=(\d+)", view.url).group(1))
    assert is_in[first - FIRST_ID]
    view.get_by_role("link", name="explore the survey").click()
    says(view, "3,000 objects, all selected")
    assert problems == []


@pytest.mark.timeout(240)
def test_a_viewer_may_look_by_keyboard_in_the_dark_at_twice_the_size(address, visit):
    problems = []
    options = {"viewport": {"width": 683, "height": 384}, "color_scheme": "dark"}
    view = opened(visit(address, problems, "bob", **options))
    view.get_by_text("viewer: bob").wait_for()
    assert view.evaluate("document.documentElement.scrollWidth") <= 683
    background = view.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in re.findall(r"\d+", background)[:3]) < 80
    press = view.keyboard.press
    reached = []
    for _ in range(30):  # every control comes by Tab, until the limit's first field
        press("Tab")
        reached.append(view.evaluate(_FOCUSED))
        if reached[-1] == "from":
            break
    assert reached[-1] == "from", reached
    view.keyboard.type("90")
    press("Tab")
    press("Tab")
    while view.evaluate(_FOCUSED) != "Select" and len(reached) < 60:
        press("Tab")
        reached.append(view.evaluate(_FOCUSED))
    press("Enter")
    says(view, "Nothing is selected: no object is within every limit (redshift from 90)")
    view.get_by_text("nothing to stack").wait_for()
    view.get_by_role("button", name="Clear selection").focus()
    press("Enter")
    says(view, "3,000 objects, all selected")
    assert problems == []


_ALL_SOURCES = """
() => Bokeh.documents.flatMap((one) => [...one._all_models.values()])
  .filter((one) => one.data && !Array.isArray(one.data) && "x" in one.data && "y" in one.data)
  .map((one) => Object.fromEntries(Object.entries(one.data).map(([key, values]) => [key, [...values]])))
"""
_SAYS = """
(words) => Bokeh.documents.some((one) => [...one._all_models.values()].some((m) => m.text?.includes?.(words)))
"""
_FOCUSED = """
() => {
  let one = document.activeElement
  while (one?.shadowRoot?.activeElement) one = one.shadowRoot.activeElement
  const group = one?.closest(".bk-input-group") ?? one?.parentElement
  return (one?.labels?.[0]?.textContent || group?.querySelector("label")?.textContent || one?.textContent || "").trim()
}
"""
