"""The service that every page, notebook and command goes through: a session for each person in a campaign.

Roles are enforced here. The caller says who the person is (from the login, never from what the browser sends) and gives
the session's answers to that person alone.
"""

from dataclasses import dataclass

import pandas as pd

from astrolab.vetting import agreement
from astrolab.vetting.queues import Slot, make_queue
from astrolab.vetting.recall import estimate_recall
from astrolab.vetting.roles import ROLES, check_role, require_role

_SAID = ("quality", "flags", "spectype", "redshift", "comment", "seconds_spent")


@dataclass(frozen=True)
class Progress:
    """How far people are.

    Attributes
    ----------
    n_objects, n_slots : int
        Objects that the run offers, and places in this person's queue (repeats included).
    n_mine, n_vetted : int
        Objects with a verdict of this person, and with one of anybody.
    """

    n_objects: int
    n_slots: int
    n_mine: int
    n_vetted: int


class Session:
    """What one person may see and do in a campaign; `Campaign.session` makes one.

    Every call asks the role first (`NotAllowedError`) and raises `CatalogError` while the catalog does not answer.

    Parameters
    ----------
    campaign : Campaign
        The run.
    user, role : str
        From the login.

    Attributes
    ----------
    user, role : str
        Of this person.
    queue : tuple of Slot
        The objects in the order in which this person sees them; repeats and audit objects are not marked.
    """

    def __init__(self, campaign, user, role):
        self._campaign, self.user, self.role = campaign, user, role
        shares = {name: campaign.run[name] for name in ("seed", "audit_share", "repeat_share")}
        self._slots = make_queue(campaign.offered, user, **shares)
        columns = [campaign.offered[name].to_numpy()[self._slots["row"]] for name in ("targetid", "survey", "program")]
        self.queue = tuple(
            Slot(position, int(targetid), survey, program)
            for position, (targetid, survey, program) in enumerate(zip(*columns, strict=True))
        )

    # --- what a vetter does

    def store_verdict(self, targetid, label="", *, survey=None, position=None, key=None, **said):
        """Store what this person says of an object; it is stored when this returns.

        Parameters
        ----------
        targetid : int
            An object that the run offers.
        label : str, optional
            One of ``"anomaly"``, ``"regular"``, ``"unsure"``, ``"artefact"``; may be empty where `quality` is given.
        survey : str, optional
            Needed only where two surveys have the targetid.
        position : int, optional
            The slot of the queue it was given at; without it a repeat cannot be told from a change of mind.
        key : str, optional
            Idempotency key, one for each click: sent twice, it is stored once.
        **said
            quality (0-4), flags (some of R, C, S, artefact or astrophysics), spectype, redshift, comment,
            seconds_spent.

        Returns
        -------
        astrolab.stores.catalog.Verdict
            With the server's UTC time; its marks ``is_repeat`` and ``is_audit`` are not for the browser.

        Raises
        ------
        NotAllowedError
            If this person is a viewer.
        ValueError, TypeError
            If something said is not what it should be, or the run does not offer the object.
        CatalogError
            If it could not be stored: nothing is.
        """
        self._require("vetter", "store verdicts")
        row = self._campaign.object_row(targetid, survey)
        _check_said(said)
        is_repeat = self._is_repeat(position) and self.queue[position].targetid == targetid
        marks = {"is_repeat": is_repeat, "is_audit": bool(pd.notna(row["audit_order"]))}
        return self._add(row, label, key, said | marks)

    def undo_verdict(self, verdict_id=None, *, key=None):
        """Take back one's own verdict, by default the last that stands; nothing is deleted.

        Returns
        -------
        astrolab.stores.catalog.Verdict
            The new event; its ``undoes`` is the verdict taken back, its ``targetid`` the object to go back to.

        Raises
        ------
        NotAllowedError
            If this person is a viewer.
        ValueError
            If there is nothing to undo, or the verdict is another user's.
        """
        self._require("vetter", "undo verdicts")
        if verdict_id is None:
            mine = self.my_verdicts()
            if not len(mine):
                raise ValueError("there is nothing to undo: none of your verdicts stands.")
            verdict_id = int(mine["id"].iloc[-1])
        return self._campaign.catalog.undo(verdict_id, user=self.user, key=key)

    def my_verdicts(self):
        """Return this person's verdicts that are not taken back, the oldest first, one row each.

        Returns
        -------
        pandas.DataFrame
            Columns of `Catalog.verdicts`, without the marks that vetters are not told.
        """
        events = self._events(user=self.user)
        return _unmarked(events[events["undoes"].isna() & ~events["is_undone"] & (events["imported_by"] == "")])

    def my_labels(self):
        """Return this person's own labels that stand, targetid to label: for a ranking of one's own."""
        mine = self.my_verdicts()
        mine = mine[mine["is_current"] & (mine["label"] != "")]
        return dict(zip(mine["targetid"].tolist(), mine["label"], strict=True))

    def verdict_at(self, position):
        """Return what this person said at a place of the queue, to be shown there; None before they did.

        An object that is shown again looks new until its second verdict.

        Returns
        -------
        dict or None
            The row of `my_verdicts`.
        """
        said = self._said_at(position)
        return None if said.empty else _unmarked(said).iloc[-1].to_dict()

    def verdicts_at(self, position):
        """Return what everyone says of the object at a place of the queue; others are hidden until one has voted there.

        Returns
        -------
        pandas.DataFrame
            Each person's last verdict. Viewers see none; vetters, once they have given theirs here, everyone's; leads
            always do.
        """
        slot = self.queue[position]
        events = self._events(targetid=slot.targetid)
        events = events[events["is_current"] & (events["survey"] == slot.survey)]
        if self._may("lead") or (self._may("vetter") and not self._said_at(position).empty):
            return _unmarked(events)
        return _unmarked(events[:0])

    def keep_order(self, order):
        """Keep in which order this person's queue comes from now on, such as after a re-ranking; the audit log has all.

        Parameters
        ----------
        order : list of int
            Every place of the queue, once.

        Raises
        ------
        NotAllowedError
            If this person is a viewer.
        ValueError
            If a place is missing, or there twice.
        """
        self._require("vetter", "order a queue")
        order = [int(at) for at in order]
        if sorted(order) != list(range(len(self.queue))):
            raise ValueError(f"the order has {len(order)} places, expected each of the {len(self.queue)} places once.")
        self._campaign.catalog.add_note(self._campaign.run_id, "order", {"order": order}, user=self.user)

    def kept_order(self):
        """Return the order that was kept last, or None."""
        note = self._campaign.catalog.last_note(self._campaign.run_id, "order", user=self.user)
        return None if note is None else note["order"]

    def progress(self):
        """Return how far this person and everybody are, as `Progress`."""
        events = self._events()
        events = events[events["is_current"]]
        mine = events[(events["user"] == self.user) & (events["imported_by"] == "")]
        n_objects = len(self._campaign.offered)
        return Progress(n_objects, len(self.queue), mine["targetid"].nunique(), events["targetid"].nunique())

    def recall(self):
        """Estimate how many anomalies remain, as `astrolab.vetting.recall.Recall`; a number for everyone, blind."""
        events = self._events()
        is_said = events["is_current"] & events["undoes"].isna()
        vetted = dict.fromkeys(events.loc[is_said, "targetid"].tolist(), "")
        return estimate_recall(self._campaign.offered, vetted | agreement.consensus(events))

    def verdicts_to_export(self):
        """Return the events that this person may take along: a lead everyone's, a vetter their own without the marks.

        Raises
        ------
        NotAllowedError
            If this person is a viewer.
        """
        self._require("vetter", "export verdicts")
        return self._events() if self._may("lead") else _unmarked(self._events(user=self.user))

    # --- what a lead does

    def agreement(self, of="label"):
        """Measure agreement, see `measure_agreement`; for leads."""
        return agreement.measure_agreement(self._shared("see agreement"), of)

    def confusion(self, one=None, other=None):
        """Count who says what against whom, see `confusion_matrix`; for leads."""
        return agreement.confusion_matrix(self._shared("see agreement"), one, other)

    def self_consistency(self):
        """Count how often people repeat themselves, see `astrolab.vetting.agreement.self_consistency`; for leads."""
        return agreement.self_consistency(self._shared("see agreement"))

    def adjudication_queue(self):
        """Return the objects on which people disagree, see `disagreements`; for leads."""
        return agreement.disagreements(self._shared("see disagreements"))

    def consensus_labels(self):
        """Return targetid to label of the objects on which people agree or a lead decided, for `rerank`; for leads."""
        labels = agreement.consensus(self._shared("see the consensus"))
        return {targetid: label for targetid, label in labels.items() if label}

    def adjudicate(self, targetid, label, *, survey=None, key=None, **said):
        """Decide what an object is, where people disagree; for leads. Takes what `store_verdict` takes."""
        self._require("lead", "adjudicate")
        row = self._campaign.object_row(targetid, survey)
        _check_said(said)
        return self._add(row, label, key, said | {"is_adjudication": True})

    def import_verdicts(self, rows, *, source="", targetids=None):
        """Store verdicts that were made elsewhere, marked as imported by this person; for leads.

        Parameters
        ----------
        rows : list of dict
            What `astrolab.vetting.exchange.read_verdicts` returns.
        source : str, optional
            Where from, for the audit log.
        targetids : set of int, optional
            Of the objects that are known, by default those that the run offers.

        Returns
        -------
        int
            How many were not there before; what is imported twice is stored once.

        Raises
        ------
        ValueError
            If one is of an unknown object, or no verdict: then none is stored.
        """
        self._require("lead", "import verdicts")
        known = set(self._campaign.offered["targetid"]) if targetids is None else targetids
        unknown = sorted({row["targetid"] for row in rows} - known)
        if unknown:
            names = ", ".join(map(str, unknown[:3])) + (" …" if len(unknown) > 3 else "")
            raise ValueError(
                f"{len(unknown)} objects are not in run {self._campaign.run_id!r}: {names}; nothing is stored."
            )
        offered = self._campaign.offered.drop_duplicates("targetid").set_index("targetid")[["survey", "program"]]
        known = offered.to_dict("index")  # prospect's files do not say the survey
        run = {"run_id": self._campaign.run_id}
        rows = [row | (known.get(row["targetid"], {}) if not row.get("survey") else {}) | run for row in rows]
        return self._campaign.catalog.import_verdicts(rows, imported_by=self.user, source=source)

    # --- what an admin does

    def set_role(self, user, role):
        """Give a user a role; for admins. The audit log keeps it."""
        self._require("admin", "give roles")
        self._campaign.catalog.set_role(user, check_role(role), by=self.user)

    def audit_log(self):
        """Return who did what and when in this run, see `Catalog.audit_log`; for admins."""
        self._require("admin", "read the audit log")
        return self._campaign.catalog.audit_log(self._campaign.run_id)

    def _may(self, needed):
        return ROLES.index(self.role) >= ROLES.index(needed)

    def _require(self, needed, what):
        require_role(self.user, self.role, needed, what)

    def _shared(self, what):
        self._require("lead", what)
        return self._events()

    def _events(self, **filters):
        return self._campaign.catalog.verdicts(self._campaign.run_id, **filters)

    def _is_repeat(self, position):
        if position is None:
            return False
        if not 0 <= position < len(self.queue):
            raise ValueError(f"position is {position!r}, expected one from 0 to {len(self.queue) - 1}.")
        return self._slots["kind"].iloc[position] == "repeat"

    def _said_at(self, position):
        slot, is_repeat = self.queue[position], self._is_repeat(position)
        events = self._events(user=self.user, targetid=slot.targetid)
        is_mine = events["undoes"].isna() & ~events["is_undone"] & (events["imported_by"] == "")
        return events[is_mine & (events["survey"] == slot.survey) & (events["is_repeat"] == is_repeat)]

    def _add(self, row, label, key, said):
        return self._campaign.catalog.add_verdict(
            self._campaign.run_id,
            int(row["targetid"]),
            label,
            user=self.user,
            survey=row["survey"],
            program=row["program"],
            model_version=self._campaign.model_version,
            key=key,
            **said,
        )


def _unmarked(events):
    return events.drop(columns=["is_repeat", "is_audit"])


def _check_said(said):
    for name in said:
        if name not in _SAID:  # a forged message must not set marks
            raise TypeError(f"a verdict has no {name!r}, expected some of: {', '.join(_SAID)}.")
