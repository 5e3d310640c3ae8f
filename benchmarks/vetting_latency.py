"""How the vetting page feels: a real Chromium presses keys and drags sliders, and the table of times is printed.

``python -m benchmarks.vetting_latency`` simulates a ranking of DESI's size a spectrum, serves it on the loopback
address and vets it. Times are those a person sees: from the key to the next frame that shows the answer.
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
import xarray as xr

from astrolab.plots import ranking_table
from astrolab.stores.spectra import save_spectra

FIRST_ID = 39_627_652_591_521_181
LIMITS = {"first plot": 3000, "next candidate": 300, "smoothing redraw": 100, "verdict stored": 200}  # ms
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]

# press a key; the time until what the server answers has come to a model of the page, and the frame after is painted
_TIME = """
async ([key, what]) => {
  const models = Bokeh.documents.flatMap((one) => [...one._all_models.values()])
  const find = {
    plot: () => models.find((one) => one.data && !Array.isArray(one.data) && "residual" in one.data),
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


def measure(address, n_times):
    """Return the times of each act, in ms."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        times = {"first plot": []}
        for _ in range(3):  # the first of a fresh server reads everything
            view = browser.new_context(viewport={"width": 1366, "height": 768}).new_page()
            start = time.perf_counter()
            view.goto(address)
            view.locator("#current-verdict").wait_for(timeout=120_000)
            view.locator("dialog").wait_for(state="attached", timeout=120_000)
            times["first plot"].append(1000 * (time.perf_counter() - start))
        view.wait_for_timeout(2000)
        keys = {
            "next candidate": [("n", "plot")] * n_times,
            "smoothing redraw": [("sd"[number // 10 % 2], "plot") for number in range(n_times)],
            "verdict stored": [("arqx"[number % 4], "verdict") for number in range(n_times)],
        }
        for act, strokes in keys.items():
            times[act] = []
            for key, what in strokes:
                if act == "verdict stored":
                    view.evaluate(_TIME, ["n", "plot"])
                times[act].append(view.evaluate(_TIME, [key, what]))
                view.wait_for_timeout(100)
        browser.close()
    return times


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
            times = measure(address, options.times)
        finally:
            process.terminate()
            process.wait(timeout=20)
    rows = []
    for act, taken in times.items():
        p50, p95 = np.percentile(np.array(taken, float), [50, 95])
        rows.append({"act": act, "n": len(taken), "p50 ms": p50, "p95 ms": p95, "limit ms": LIMITS[act]})
    print(pd.DataFrame(rows).to_string(index=False, float_format="%.0f"))
    print(f"{options.objects} objects of {options.wavelengths} pixels; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
