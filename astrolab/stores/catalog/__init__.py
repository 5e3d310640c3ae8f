"""The catalog of people's verdicts: an append-only SQL database, the dearest data in the house.

SQLite by default, PostgreSQL by setting ``ASTROLAB_CATALOG_URL``. A verdict is stored, together with its entry in the
audit log, when the call that stores it returns, not before. Nothing is ever changed or deleted, and the database
itself refuses to: an undo is one more row.

``tables`` says what is stored, ``migrations/`` how older schemas become today's (``upgrade`` applies them),
``connection`` opens databases and groups commits, ``verdicts`` checks what a person says, ``access`` is the catalog.
"""

from astrolab.stores.catalog.access import Catalog, open_catalog
from astrolab.stores.catalog.connection import CatalogError
from astrolab.stores.catalog.verdicts import COMMENT_LIMIT, FLAGS, LABELS, QUALITIES, Verdict

__all__ = [
    "COMMENT_LIMIT",
    "FLAGS",
    "LABELS",
    "QUALITIES",
    "Catalog",
    "CatalogError",
    "Verdict",
    "open_catalog",
]
