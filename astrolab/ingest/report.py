"""The account of an ingest: rows in = rows out + rows quarantined."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path


class IngestError(ValueError):
    """No row could be stored, or not all of them where that was asked for.

    Attributes
    ----------
    report : IngestReport
        What was found, with every quarantine record.
    """

    def __init__(self, message, report):
        super().__init__(message, report)
        self.report = report

    def __str__(self):
        return self.args[0]


@dataclass
class IngestReport:
    """What came of an ingest: rows in = rows out + rows quarantined.

    Attributes
    ----------
    survey : str
        Whose files they were.
    store_path : str
        The store.
    rows_in : int
        Rows that the files hold by their headers; a file whose rows cannot be counted is one row.
    rows_out : int
        Rows in the store, counted in the store.
    rows_quarantined : int
        Rows set aside.
    rows_resumed : int
        Rows whose pixels an ingest that was killed had gone through, so that they were not read again.
    n_files, n_companion_files : int
        Files with spectra, good or bad; files that go with them, such as redrock's.
    n_files_without_checksum : int
        Files in whose data a flipped bit could not be seen.
    is_simulated : bool
        One of the files, or more, says that it holds no observations.
    quarantined : list of dict
        ``path``, ``n_rows``, ``targetid`` (None for a whole file), ``code``, ``reason``, ``sha256`` (of a whole file
        that is local and can be read, else None) and ``time`` (UTC) of each file or row set aside.
    """

    survey: str
    store_path: str
    rows_in: int = 0
    rows_out: int = 0
    rows_quarantined: int = 0
    rows_resumed: int = 0
    n_files: int = 0
    n_companion_files: int = 0
    n_files_without_checksum: int = 0
    is_simulated: bool = False
    quarantined: list = field(default_factory=list)

    @property
    def is_complete(self):
        """Every row is accounted for."""
        return self.rows_in == self.rows_out + self.rows_quarantined

    def to_json(self):
        """Return the report as JSON text.

        Returns
        -------
        str
        """
        return json.dumps(asdict(self), indent=1)

    def quarantine(self, path, code, reason, n_rows=1, targetid=None):
        """Set rows aside, with the reason.

        Parameters
        ----------
        path : str
            The file.
        code : str
            One word for machines.
        reason : str
            One sentence for people.
        n_rows : int, optional
            How many rows.
        targetid : int, optional
            Whose, when it is one row.

        Returns
        -------
        dict
            The record.
        """
        record = {"path": path, "n_rows": n_rows, "targetid": targetid, "code": code, "reason": reason}
        time = datetime.now(UTC).isoformat(timespec="seconds")
        record |= {"sha256": _sha256(path) if targetid is None else None, "time": time}
        self.add([record])
        return record

    def add(self, records):
        """Add quarantine records.

        Parameters
        ----------
        records : list of dict
            As in ``quarantined``.
        """
        self.quarantined += records
        self.rows_quarantined += sum(record["n_rows"] for record in records)


def _sha256(path):
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
