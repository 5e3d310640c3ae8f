"""What a vetter is doing, in one place: the views read it and change it, and know nothing of each other."""

import numpy as np
import param

from astrolab.plots import ranking_table
from astrolab.schema import OBJECT
from astrolab.stores.catalog import CatalogError

_SHOWN = ("reasons", "redshift", "snr", "spectype", "ra", "dec")


class VettingState(param.Parameterized):
    """The state of one person's session over one ranking.

    Parameters
    ----------
    ranked : xarray.Dataset
        The spectra to vet, in rank order.
    catalog : astrolab.stores.catalog.Catalog
        Where verdicts are stored, at the moment they are given.
    run_id, user, model_version : str
        What every verdict is stored with.
    session : astrolab.vetting.sessions.Session, optional
        The same person's session; without one, verdicts go to the catalog as they are.

    Attributes
    ----------
    index : int
        The object looked at; 0 is the strangest.
    targetid : str
        The same, as the address of a page names it; setting an unknown one changes nothing.
    comment : str
        Typed, and stored with the next verdict.
    smoothing : int
        Sigma in pixels of the spectrum's smoothing.
    labels : dict
        Row -> this user's label that stands, as stored.
    message : str
        What became of the last click: the stored tick with its time, or why nothing was stored.
    is_error : bool
        The message is an error.
    """

    index = param.Integer(default=0, bounds=(0, None))
    targetid = param.String(default="")
    comment = param.String(default="")
    smoothing = param.Integer(default=0, bounds=(0, 10))
    labels = param.Dict(default={})
    message = param.String(default="")
    is_error = param.Boolean(default=False)

    def __init__(self, ranked, catalog, *, run_id, user, model_version="", session=None):
        super().__init__()
        self.ranked = ranked
        self.table = ranking_table(ranked)
        for name in _SHOWN:
            if name not in self.table:
                raise ValueError(f"ranked has no {name!r}, expected what rank_anomalies(model, spectra) returns.")
        self.run_id, self.user, self.model_version = run_id, user, model_version
        self._catalog, self._session = catalog, session
        self._row_of = {name: row for row, name in enumerate(self.table["name"])}
        self._spectrum = (None, None)
        self._standing = None  # this user's verdicts that stand, oldest first
        self._read_labels()
        self._follow_index()

    @property
    def n_objects(self):
        """How many spectra there are to vet."""
        return len(self.table)

    @property
    def n_labelled(self):
        """How many of them this user has labelled."""
        return len(self.labels)

    @property
    def current(self):
        """The row of the ranking that is looked at."""
        return self.table.iloc[self.index]

    @property
    def spectrum(self):
        """The spectrum that is looked at, in memory."""
        row, spectrum = self._spectrum
        if row != self.index:
            spectrum = self.ranked.isel({OBJECT: self.index}).load()
            self._spectrum = (self.index, spectrum)
        return spectrum

    def step(self, by):
        """Go on by some objects, or back; stop at the ends."""
        if self.n_objects:
            self.index = int(np.clip(self.index + by, 0, self.n_objects - 1))

    def label(self, word):
        """Store a label of the current object, with the comment; ``message`` then says so, or why not."""
        row = self.current

        def store():
            targetid, survey = int(row["targetid"]), str(row.get("survey", ""))
            if self._session is not None:
                verdict = self._session.store_verdict(targetid, word, survey=survey, comment=self.comment)
            else:
                about = {"user": self.user, "survey": survey, "model_version": self.model_version}
                verdict = self._catalog.add_verdict(self.run_id, targetid, word, comment=self.comment, **about)
            return verdict, f"stored ✓ {verdict.time:%H:%M:%S} UTC — {row['name']}: {word}"

        if self._attempt(store):
            self.comment = ""

    def undo(self):
        """Take back the last of this user's verdicts that stands; a new event, nothing is deleted."""
        if not len(self._standing):
            self.param.update(message="nothing to undo", is_error=False)
            return
        last = self._standing.iloc[-1]

        def store():
            if self._session is not None:
                event = self._session.undo_verdict(int(last["id"]))
            else:
                event = self._catalog.undo(int(last["id"]), user=self.user)
            return event, f"undone ✓ {event.time:%H:%M:%S} UTC — {last['targetid']}: {last['label']}"

        if self._attempt(store):
            self.index = self._row_of.get(str(last["targetid"]), self.index)

    def _attempt(self, store):
        """Store something; the message is set only when it is committed, or has failed."""
        try:
            _, message = store()
        except (CatalogError, PermissionError, ValueError) as error:
            self.param.update(message=f"NOT stored: {error}", is_error=True)
            return False
        self._read_labels()
        self.param.update(message=message, is_error=False)
        return True

    def _read_labels(self):
        events = self._catalog.verdicts(self.run_id, user=self.user)
        mine = events[events["undoes"].isna()]
        taken_back = events["undoes"].dropna()
        self._standing = mine[~mine["id"].isin(taken_back)]
        current = mine[mine["is_current"]]
        pairs = zip(current["targetid"], current["label"], strict=True)
        rows = ((self._row_of.get(str(targetid)), word) for targetid, word in pairs)
        self.labels = {row: word for row, word in rows if row is not None}

    @param.depends("index", watch=True)
    def _follow_index(self):
        if self.n_objects:
            self.targetid = self.current["name"]

    @param.depends("targetid", watch=True)
    def _follow_targetid(self):
        self.index = self._row_of.get(self.targetid, self.index)
