"""How the explorer feels with a whole survey: a real Chromium zooms and selects, and the times are printed.

``python -m benchmarks.explorer`` simulates a ranking of 1.6 million objects (random numbers with the columns of a real
one), serves it with ``astrolab vet``'s own server, and drives the page. Times are those a person sees: from the
turn of the wheel, or the end of a drag, to the frame after everything that follows it has been drawn; beside them
what an act costs the processors of the server and of the browser, which hardly depends on what else the machine does.
Memory is the server's largest resident size, start included. A table, then the same as JSON.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.vetting_latency import ARGUMENTS, FIRST_ID, start_server, write_run

LIMITS = {"first view": 3000, "zoom": 500, "linked selection": 500, "colour": 500}  # ms
MEMORY_LIMIT = 4.0  # GB
_BLOCK = 200_000  # rows that are made at once
_SOURCES = ["map cells", "sky cells", "redshift bars", "snr bars"]

# wait until the page is whole
_IS_SHOWN = """
() => {
  const models = (window.Bokeh?.documents ?? []).flatMap((one) => [...one._all_models.values()])
  return models.some((one) => one.name === "map cells") && Bokeh.documents.every((one) => one.is_idle)
}
"""
# start the clock at the next such event; stop it two frames after all of the sources have new data
_ARM = """
([event, names]) => {
  const models = Bokeh.documents.flatMap((one) => [...one._all_models.values()])
  const watched = names.map((name) => models.find((one) => one.name === name))
  const before = watched.map((one) => one.data)
  let start = null
  const begin = () => { start ??= performance.now() }
  document.addEventListener(event, begin, {capture: true})
  window.taken = new Promise((resolve) => {
    const look = () => {
      if (start !== null && watched.every((one, at) => one.data !== before[at])) {
        document.removeEventListener(event, begin, {capture: true})
        requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now() - start)))
      } else if (start !== null && performance.now() - start > 30000) resolve(null)
      else requestAnimationFrame(look)
    }
    look()
  })
}
"""


def write_ranking(path, n_rows):
    """Write a simulated ranking with the columns of a real one, block by block."""
    rng, writer = np.random.default_rng(0), None
    for start in range(0, n_rows, _BLOCK):
        block = pa.Table.from_pandas(_block(rng, start, min(_BLOCK, n_rows - start), n_rows), preserve_index=False)
        writer = writer or pq.ParquetWriter(path, block.schema)
        writer.write_table(block)
    writer.close()


def _block(rng, start, n, n_rows):
    rank = np.arange(start, start + n)
    score = -3 * np.log((rank + 0.5) / n_rows)  # in rank order
    group = rng.integers(0, 6, n)
    columns = {
        "targetid": FIRST_ID + rank,
        "survey": np.full(n, "main", object),
        "program": np.full(n, "dark", object),
        "ra": rng.uniform(0, 360, n),
        "dec": np.degrees(np.arcsin(rng.uniform(-0.35, 0.98, n))),
        "redshift": np.abs(rng.normal(1.6, 0.7, n)) + 0.05,
        "redshift_warning": np.zeros(n, "int64"),
        "spectype": np.full(n, "QSO", object),
        "snr": rng.lognormal(0.8, 0.8, n).astype("f4"),
        "anomaly_score": score.astype("f4"),
        "anomaly_rank": (rank + 1).astype("int32"),
        "reasons": np.array([f"missing flux blueward of C IV at {one:.1f}σ; χ² per pixel {one:.2f}" for one in score]),
    }
    names = "p_value q_value raw_score score_chi2 score_trough score_lines score_continuum score_latent artefact_score"
    names += " artefact_spike artefact_sky artefact_step artefact_loss chi2 n_good snr_rest band_sigma band_wavelength"
    names += " band_width trough_sigma trough_wavelength trough_width line_evidence"
    columns |= {name: rng.normal(size=n).astype("f4") for name in names.split()}
    centre = np.random.default_rng(1).normal(0, 2, (6, 8))
    latent = centre[group] + rng.normal(0, 0.3 + 0.2 * group[:, None], (n, 8))
    columns |= {f"latent_{k}": latent[:, k].astype("f4") for k in range(8)}
    return pd.DataFrame(columns)


def measure(address, server, n_times):
    """Return the times of each act, ms, and what one costs the server's and the browser's processors, ms."""
    from playwright.sync_api import sync_playwright

    times, costs = {"first view": []}, {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        for _ in range(3):  # the first of a fresh server reads the columns
            view = browser.new_context(viewport={"width": 1366, "height": 768}).new_page()
            before = _spent(server)
            start = time.perf_counter()
            view.goto(address)
            view.wait_for_function(_IS_SHOWN, timeout=120_000)
            view.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            times["first view"].append(1000 * (time.perf_counter() - start))
            costs["first view"] = _spent(server) - before
        view.wait_for_timeout(1500)
        for act, do in {"zoom": _zoom, "linked selection": _select, "colour": _color}.items():
            before = _spent(server)
            times[act] = [do(view, number) for number in range(n_times)]
            costs[act] = (_spent(server) - before) / n_times
        browser.close()
    return times, costs


def _spent(server):
    """Return the processor time that the server and the browser have taken, ms."""
    browser = [one for one in psutil.Process().children(recursive=True) if "chrom" in one.name()]
    return np.array([1000 * sum(sum(one.cpu_times()[:2]) for one in many) for many in ([server], browser)])


def _clocked(view, event, names, act):
    view.evaluate(_ARM, [event, names])
    act()
    taken = view.evaluate("window.taken")
    if taken is None:
        raise RuntimeError(f"after {event} the page did not change within 30 s")
    view.wait_for_timeout(200)
    return taken


def _figure(view, at):
    return view.locator(".bk-Figure").nth(at).bounding_box()


def _zoom(view, number):
    """Turn the wheel on the map: three times in, three times out."""
    box = _figure(view, 0)
    view.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.5 * box["height"])
    turn = -240 if number // 3 % 2 == 0 else 240
    return _clocked(view, "wheel", ["map cells"], lambda: view.mouse.wheel(0, turn))


def _select(view, number):
    """Draw a box on the map, the sky, or a histogram, in turn."""
    at = number % 4
    box = _figure(view, at if at < 3 else 3)
    left, width = 0.3 + 0.02 * (number % 9), 0.25 + 0.01 * (number % 7)

    def drag():
        view.mouse.move(box["x"] + left * box["width"], box["y"] + 0.35 * box["height"])
        view.mouse.down()
        for step in (0.3, 0.6, 1.0):
            x = box["x"] + (left + step * width) * box["width"]
            view.mouse.move(x, box["y"] + (0.35 + 0.3 * step) * box["height"])
        view.mouse.up()

    return _clocked(view, "pointerup", _SOURCES, drag)


def _color(view, number):
    words = ["redshift", "S/N", "χ² per pixel", "anomaly score"]
    choose = view.get_by_label("Colour the map by")
    return _clocked(view, "input", ["map cells"], lambda: choose.select_option(label=words[number % len(words)]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_600_000)
    parser.add_argument("--times", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_dir, home = Path(folder) / "run", Path(folder) / "home"
        run_dir.mkdir()
        home.mkdir()
        write_run(run_dir, 200, 1000)
        write_ranking(run_dir / "ranking.parquet", options.rows)
        start = time.perf_counter()
        process, address = start_server(run_dir, home)
        print(f"the server answers after {time.perf_counter() - start:.1f} s")
        server = psutil.Process(process.pid)
        try:
            at_start = server.memory_info().rss / 1e9
            times, costs = measure(f"{address}explore", server, options.times)
            peak = _peak_memory(process.pid)
        finally:
            process.terminate()
            process.wait(timeout=20)
    _report(options.rows, times, costs, at_start, peak)


def _peak_memory(pid):
    """Return the largest resident size that a process has had, GB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9


def _report(n_rows, times, costs, at_start, peak):
    rows = [{"act": "first view, fresh server", "n": 1, "p50 ms": times["first view"][0]}]
    rows[0] |= {"p95 ms": times["first view"][0], "limit ms": LIMITS["first view"]}
    for act, taken in times.items():
        p50, p95 = np.percentile(taken, [50, 95])
        rows.append({"act": act, "n": len(taken), "p50 ms": p50, "p95 ms": p95, "limit ms": LIMITS[act]})
        rows[-1] |= {"server CPU ms": costs[act][0], "browser CPU ms": costs[act][1]}
    print(pd.DataFrame(rows).to_string(index=False, float_format="%.0f", na_rep=""))
    print(f"server memory: {peak:.2f} GB at most, {at_start:.2f} GB at start (limit {MEMORY_LIMIT:.0f} GB)")
    print(f"{n_rows:,} SIMULATED objects; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    figures = {"n_rows": n_rows, "is_simulated": True, "memory_gb": round(peak, 2), "load": os.getloadavg()[0]}
    print(json.dumps(figures | {f"{row['act']} p95 ms": round(row["p95 ms"]) for row in rows}))


if __name__ == "__main__":
    main()
