"""Fixtures that every test may use."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data():
    """Folder of real spectra with truth; a test that needs it skips where it is not there."""
    folder = os.environ.get("ASTROLAB_REAL_DATA")
    if not folder:
        pytest.skip("ASTROLAB_REAL_DATA is not set: it names a folder of real SDSS and DESI spectra")
    return Path(folder)


@pytest.fixture(scope="session")
def postgresql_server():
    """A real PostgreSQL of this test session; a test that needs it skips where there is none."""
    pytest.importorskip("psycopg")
    from benchmarks.postgresql import NoPostgresqlError, temporary_server

    try:
        with temporary_server() as server:
            yield server
    except NoPostgresqlError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog_url(request, tmp_path):
    """The URL of an empty catalog, of each kind of database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'catalog.db'}"
    return request.getfixturevalue("postgresql_server").new_database()


@pytest.fixture(scope="session")
def hear_interrupts():
    """Return what a child process calls first so that SIGINT reaches it, also where the tests run in the background."""
    return lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def in_chunks():
    """Return a function that makes flux and ivar lazy, so many objects a chunk (columns stay in memory)."""

    def in_chunks(spectra, n_object):
        lazy = {name: spectra[name].variable.chunk({"object": n_object}) for name in ("flux", "ivar")}
        return spectra.assign(lazy)

    return in_chunks


@pytest.fixture(scope="session")
def quasars():
    """300 simple quasars in the observed frame, in memory: a continuum, three lines, noise, masked pixels."""
    import numpy as np
    import xarray as xr

    rng = np.random.default_rng(1)
    n_object, wavelength = 300, np.arange(3600.0, 9824.0, 4.0)
    redshift, snr = rng.uniform(1.2, 2.4, n_object), rng.uniform(2, 20, n_object)
    rest = wavelength / (1 + redshift[:, None])
    flux = (rest / 2000) ** rng.normal(-1.5, 0.3, (n_object, 1))
    for centre, strength in ((1549, 1.5), (1909, 0.8), (2799, 0.7)):
        sigma = centre * rng.uniform(1500, 3000, (n_object, 1)) / 299792.458
        flux += strength * rng.lognormal(0, 0.2, (n_object, 1)) * np.exp(-0.5 * ((rest - centre) / sigma) ** 2)
    err = np.median(flux, axis=1, keepdims=True) / snr[:, None]
    ivar = np.broadcast_to(1 / err**2, flux.shape) * (rng.random(flux.shape) > 0.02)
    flux = np.where(ivar > 0, flux + err * rng.normal(size=flux.shape), 0)
    columns = {
        "targetid": np.arange(n_object) + 39_633_559_463_397_000,
        "ra": rng.uniform(0, 360, n_object),
        "dec": rng.uniform(-30, 60, n_object),
        "redshift": redshift,
        "redshift_err": np.full(n_object, 1e-4),
        "redshift_warning": np.zeros(n_object, "int64"),
        "spectype": np.full(n_object, "QSO"),
        "survey": np.full(n_object, "test"),
        "snr": snr.astype("float32"),
    }
    return xr.Dataset(
        {"flux": (("object", "wavelength"), flux.astype("f4")), "ivar": (("object", "wavelength"), ivar.astype("f4"))},
        coords={"wavelength": wavelength} | {name: ("object", values) for name, values in columns.items()},
    )


@pytest.fixture(scope="session")
def rest_quasars(quasars):
    """The same quasars in the rest frame, normalised, on 300 pixels."""
    import astrolab as al

    return al.normalize_flux(al.to_restframe(quasars, al.rest_grid(1200, 3800, 300)))


@pytest.fixture(scope="session")
def vae(rest_quasars):
    """A small model of them; no test may train it further."""
    import astrolab as al

    model = al.VAE(n_wavelength=300, n_latent=4, n_hidden=64)
    al.fit(model, rest_quasars, n_epochs=40, progress=False)
    return model


@pytest.fixture(scope="session")
def scored(vae, rest_quasars):
    """Ranking, objects not ranked, and scale of them."""
    import astrolab as al

    return al.score_anomalies(vae, rest_quasars)


@pytest.fixture(scope="session")
def ranking(scored):
    """The ranking alone; no test may change it."""
    return scored.ranking


@pytest.fixture(scope="session")
def scale(scored):
    """The scale alone."""
    return scored.scale


# --- the vetting page in a browser


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """A run folder of 12 objects of 50 pixels, for a page that is there but not looked at."""
    import json

    import numpy as np
    import xarray as xr

    from astrolab.plots import ranking_table
    from astrolab.stores.spectra import save_spectra

    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    rng, n, of = np.random.default_rng(0), 12, "object"
    flux, pixels = rng.normal(size=(n, 50)).astype("f4"), (of, "wavelength_rest")
    columns = dict.fromkeys(("ra", "dec", "redshift", "redshift_err"), np.ones(n))
    columns |= {"targetid": 2**53 + 1 + 2 * np.arange(n), "redshift_warning": np.zeros(n, "i8")}
    columns |= {"snr": np.ones(n, "f4"), "anomaly_score": np.linspace(2, 1, n).astype("f4")}
    columns |= {"anomaly_rank": np.arange(1, n + 1, dtype="i4")}
    columns |= {k: np.full(n, v, object) for k, v in (("survey", "main"), ("reasons", "odd"), ("spectype", "QSO"))}
    ranked = xr.Dataset(
        {"flux": (pixels, flux), "ivar": (pixels, np.ones_like(flux)), "flux_model": (pixels, flux)}
        | {"latent": ((of, "latent_dim"), rng.normal(size=(n, 4)).astype("f4"))},
        coords={"wavelength_rest": np.linspace(1300, 2800, 50)} | {k: (of, v) for k, v in columns.items()},
    )
    save_spectra(ranked, folder / "top.zarr", keep_order=True)
    ranking_table(ranked).drop(columns="name").to_parquet(folder / "ranking.parquet")
    record = {"template": "rank_anomalies", "started": "2026-01-01T00:00:00+00:00", "status": "succeeded"}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="session")
def serve_vetting():
    """Return a context manager that runs ``astrolab vet``; with names of people, it asks for "secret of NAME"."""
    return _serve_vetting


@contextmanager
def _serve_vetting(run_dir, folder, *options, people=None, **environment):
    """Yield the address of the vetting page and the process; ``folder / "server.log"`` holds what it says."""
    from astrolab.vetting.passwords import add_user

    for name, role in (people or {}).items():
        add_user(folder / "users.json", name, role, f"secret of {name}")
    options += ("--auth", "basic", "--users", str(folder / "users.json")) if people else ()
    command = [sys.executable, "-c", "from astrolab.cli import main; main()", "vet", str(run_dir), *options]
    log_path = folder / "server.log"
    with log_path.open("w") as log:
        environment = os.environ | {"ASTROLAB_HOME": str(folder)} | environment
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        deadline = time.monotonic() + 120
        while not (found := re.search(r"vetting page: (\S+)", log_path.read_text())):
            assert process.poll() is None, log_path.read_text()
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.2)
        yield found.group(1), process
    finally:
        process.terminate()
        process.wait(timeout=20)
    assert "Traceback" not in log_path.read_text(), log_path.read_text()


@pytest.fixture(scope="session")
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


@pytest.fixture
def visit(browser):
    """Return a function that opens a page, logs in if asked, and notes all that goes wrong on it in a list."""

    def visit(address, problems, name=None, **options):
        view = browser.new_context(**{"viewport": {"width": 1366, "height": 768}} | options).new_page()
        view.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        view.on("pageerror", lambda e: problems.append(str(e)))
        is_own = re.compile(r"(http|ws)://127\.0\.0\.1:\d+/|data:|blob:").match
        view.on("request", lambda r: None if is_own(r.url) else problems.append(f"asked {r.url}"))
        view.on("response", lambda r: problems.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        view.goto(address)
        if name:
            view.get_by_label("Name").fill(name)
            view.get_by_label("Password").fill(f"secret of {name}")
            view.get_by_role("button", name="Log in").click()
        return view

    opened = []
    yield lambda *arguments, **options: opened.append(visit(*arguments, **options)) or opened[-1]
    for view in opened:
        view.context.close()
