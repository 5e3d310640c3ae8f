"""For every test, and for the examples in docstrings, which pytest runs too."""

import pytest


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    """Keep every test out of the user's own catalog and run folders."""
    from astrolab.settings import settings

    monkeypatch.setenv("ASTROLAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ASTROLAB_RUNS_DIR", str(tmp_path / "runs"))
    settings.cache_clear()
    yield
    settings.cache_clear()
