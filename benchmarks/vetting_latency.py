"""How the vetting page feels: a real Chromium presses keys and drags sliders, and the table of times is printed.

``python -m benchmarks.vetting_latency`` simulates a ranking of DESI's size a spectrum, serves it on the loopback
address and vets it. Times are those a person sees: from the key to the next frame that shows the answer. Beside them
stand what an act costs the processors of the server and of the browser, and the kilobytes that the websocket carries to
the page: these hardly depend on what else the machine does.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import xarray as xr

from astrolab.plots import ranking_table
from astrolab.stores.spectra import save_spectra

FIRST_ID = 39_627_652_591_521_181
LIMITS = {"first plot": 3000, "next candidate": 300, "smoothing redraw": 100, "verdict stored": 200}  # ms
LIMITS["vetted by quality"] = 500  # stored, and the next one there: the sum of the two
LIMITS["whole page"] = np.nan  # with queue, neighbours and map, which are made after the first plot
N_FIRST = 5
PAUSE_MS = 400  # a vetter looks; what was put off is done meanwhile
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]

# press a key; the time until what the server answers has come to a model of the page, and the frame after is painted
_TIME = """
async ([key, what]) => {
  const models = Bokeh.documents.flatMap((one) => [...one._all_models.values()])
  const find = {
    plot: () => models.find((one) => one.data && !Array.isArray(one.data) && "flux" in one.data && "low" in one.data),
    verdict: () => models.find((one) => typeof one.text === "string" && /status/.test(one.text)),
  }
  const model = find[what]()
  const seen = () => what === "plot" ? model.data : model.text
  const before = seen(), start = performance.now()
  document.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, composed: true}))
  while (seen() === before) {
    await new Promise(requestAnimationFrame)
    if (performance.now() - start > 20000) return null
  }
  await new Promise(requestAnimationFrame)
  await new Promise(requestAnimationFrame)
  return performance.now() - start
}
"""


def write_run(folder, n_object, n_wavelength):
    """Write a run folder of simulated spectra, of which the page needs nothing but its shape."""
    rng, of, pixels = np.random.default_rng(0), "object", ("object", "wavelength_rest")
    model = rng.uniform(0.8, 1.2, (n_object, 1)) * np.linspace(2, 1, n_wavelength)
    flux = (model + 0.1 * rng.normal(size=model.shape)).astype("f4")
    score = np.sort(rng.gamma(2, 1, n_object))[::-1].astype("f4")
    columns = {
        "targetid": FIRST_ID + np.arange(n_object),
        "ra": rng.uniform(0, 360, n_object),
        "dec": rng.uniform(-20, 60, n_object),
        "redshift": rng.uniform(1.8, 3, n_object),
        "redshift_err": np.full(n_object, 1e-4),
        "redshift_warning": np.zeros(n_object, "i8"),
        "snr": rng.lognormal(1.5, 0.5, n_object).astype("f4"),
        "anomaly_score": score,
        "anomaly_rank": np.arange(1, n_object + 1, dtype="i4"),
    }
    texts = {"spectype": "QSO", "survey": "main", "reasons": "missing flux blueward of C IV at 14.2σ"}
    columns |= {name: np.full(n_object, text, object) for name, text in texts.items()}
    ranked = xr.Dataset(
        {"flux": (pixels, flux), "ivar": (pixels, np.full_like(flux, 100)), "flux_model": (pixels, model.astype("f4"))}
        | {"latent": ((of, "latent_dim"), rng.normal(size=(n_object, 8)).astype("f4"))},
        coords={"wavelength_rest": np.linspace(1216, 3000, n_wavelength)}
        | {name: (of, values) for name, values in columns.items()},
    )
    save_spectra(ranked, folder / "top.zarr", keep_order=True)
    ranking_table(ranked).drop(columns="name").to_parquet(folder / "ranking.parquet")
    record = {"template": "rank_anomalies", "started": "2026-01-01T00:00:00+00:00", "status": "succeeded"}
    (folder / "run.json").write_text(json.dumps(record))


def start_server(run_dir, home):
    """Start the real server; return its process and address."""
    code = "import sys; from astrolab.dashboards.serve import serve_run; serve_run(sys.argv[1])"
    log_path = home / "server.log"
    with log_path.open("w") as log:
        environment = os.environ | {"ASTROLAB_HOME": str(home)}
        command = [sys.executable, "-c", code, str(run_dir)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    while not (found := re.search(r"http://127\.0\.0\.1:\d+/", log_path.read_text())):
        if process.poll() is not None:
            raise RuntimeError(f"the server did not start: {log_path.read_text()}")
        time.sleep(0.2)
    return process, found.group()


class _Cost:
    """What was spent since the last look: ms of the server's and of the browser's processors, kB to the page."""

    def __init__(self, server, view):
        self._server, self._n_bytes = psutil.Process(server.pid), 0
        view.on("websocket", lambda socket: socket.on("framereceived", self._count))
        self.since()

    def _count(self, frame):
        self._n_bytes += len(frame)

    def since(self):
        now = np.array([_cpu_ms(self._server), sum(map(_cpu_ms, _chromium())), self._n_bytes / 1000])
        spent, self._last = now - getattr(self, "_last", now), now
        return spent


def _cpu_ms(process):
    try:
        return 1000 * sum(process.cpu_times()[:2])
    except psutil.Error:  # it has ended
        return 0.0


def _chromium():
    return [one for one in psutil.Process().children(recursive=True) if "chrom" in one.name()]


def measure(address, server, n_times):
    """Return the times of each act in ms, and what one of each costs: a dict of lists, a dict of arrays."""
    from playwright.sync_api import sync_playwright

    times, costs = {"first plot": [], "whole page": []}, {"whole page": np.full(3, np.nan)}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        for _ in range(N_FIRST):  # the first of a fresh server reads everything
            view = browser.new_context(viewport={"width": 1366, "height": 768}).new_page()
            cost = _Cost(server, view)
            start = time.perf_counter()
            view.goto(address)
            view.locator("#current-verdict").wait_for(timeout=120_000)
            view.locator("dialog").wait_for(state="attached", timeout=120_000)
            times["first plot"].append(1000 * (time.perf_counter() - start))
            view.get_by_text("Map by score").wait_for(timeout=120_000)
            times["whole page"].append(1000 * (time.perf_counter() - start))
            view.wait_for_timeout(3000)
            costs["first plot"] = costs.get("first plot", 0) + cost.since() / N_FIRST
        keys = {
            "next candidate": [("n", "plot")] * n_times,
            "smoothing redraw": [("sd"[number // 10 % 2], "plot") for number in range(n_times)],
            "verdict stored": [("arqx"[number % 4], "verdict") for number in range(n_times)],
            "vetted by quality": [("01234"[number % 5], "plot") for number in range(n_times)],
        }
        for act, strokes in keys.items():
            times[act], costs[act] = [], 0
            for key, what in strokes:
                if act == "verdict stored":
                    view.evaluate(_TIME, ["n", "plot"])
                    view.wait_for_timeout(PAUSE_MS)
                cost.since()
                times[act].append(view.evaluate(_TIME, [key, what]))
                view.wait_for_timeout(PAUSE_MS)
                costs[act] = costs[act] + cost.since() / len(strokes)
        browser.close()
    return times, costs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=500)
    parser.add_argument("--wavelengths", type=int, default=7781)
    parser.add_argument("--times", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_dir, home = Path(folder) / "run", Path(folder) / "home"
        run_dir.mkdir()
        home.mkdir()
        write_run(run_dir, options.objects, options.wavelengths)
        process, address = start_server(run_dir, home)
        try:
            times, costs = measure(address, process, options.times)
        finally:
            process.terminate()
            process.wait(timeout=20)
    rows = []
    for act, taken in times.items():
        p50, p95 = np.percentile(np.array(taken, float), [50, 95])
        row = {"act": act, "n": len(taken), "p50 ms": p50, "p95 ms": p95, "limit ms": LIMITS[act]}
        rows.append(row | dict(zip(("server cpu ms", "browser cpu ms", "kB"), costs[act], strict=True)))
    print(pd.DataFrame(rows).to_string(index=False, float_format="%.0f"))
    print(f"{options.objects} objects of {options.wavelengths} pixels; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
