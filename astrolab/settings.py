"""Where things live: one place for every ``ASTROLAB_*`` environment variable."""

from functools import lru_cache
from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings, each read from the environment variable ``ASTROLAB_<NAME>``.

    Attributes
    ----------
    home : pathlib.Path
        What belongs to a person and not to one run: the catalog of labels (``ASTROLAB_HOME``).
    runs_dir : pathlib.Path
        Where new run folders go (``ASTROLAB_RUNS_DIR``).
    catalog_url : str or None
        SQLAlchemy URL of the catalog; None means SQLite in `home` (``ASTROLAB_CATALOG_URL``).
    templates_dir : pathlib.Path or None
        A folder of one's own with more templates (``ASTROLAB_TEMPLATES_DIR``).
    """

    model_config = SettingsConfigDict(env_prefix="ASTROLAB_", extra="ignore")

    home: Path = Path.home() / ".astrolab"
    runs_dir: Path = Path("runs")
    catalog_url: str | None = None
    templates_dir: Path | None = None


@lru_cache
def settings():
    """Return the settings of this process.

    Returns
    -------
    Settings
        Read once from the environment; ``settings.cache_clear()`` reads again.
    """
    return Settings()
