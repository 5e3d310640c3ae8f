"""Fixtures that every test may use."""

import os
import signal
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
