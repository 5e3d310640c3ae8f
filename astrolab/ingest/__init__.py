"""Ingest: survey files streamed into one spectra store; every row is accounted for, and a kill costs one chunk."""

from astrolab.ingest.report import IngestError, IngestReport
from astrolab.ingest.survey import READERS, ingest_survey

__all__ = ["READERS", "IngestError", "IngestReport", "ingest_survey"]
