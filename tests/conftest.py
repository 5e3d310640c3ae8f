"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data():
    """Folder of real spectra with truth; a test that needs it skips where it is not there."""
    folder = os.environ.get("ASTROLAB_REAL_DATA")
    if not folder:
        pytest.skip("ASTROLAB_REAL_DATA is not set: it names a folder of real SDSS and DESI spectra")
    return Path(folder)


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    """Keep every test out of the user's own catalog and run folders."""
    from astrolab.settings import settings

    monkeypatch.setenv("ASTROLAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ASTROLAB_RUNS_DIR", str(tmp_path / "runs"))
    settings.cache_clear()
    yield
    settings.cache_clear()
