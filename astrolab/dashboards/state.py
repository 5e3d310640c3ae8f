"""What a vetter is doing, in one place: the views read it and change it, and know nothing of each other."""

import time
from uuid import uuid4

import numpy as np
import pandas as pd
import param

from astrolab.dashboards.order import end_of_queue, merged_order, rank_by_labels
from astrolab.lines import lines_between
from astrolab.stores.catalog import CatalogError

STANDARD_COMMENTS = ("BAL", "DLA", "two objects", "blazar", "lens", "bad sky")
SPECTYPES = ("", "QSO", "GALAXY", "STAR", "unknown")
REDSHIFT_STEP = 0.001  # of 1 + z: 300 km/s
_DRAFT = ("flags", "spectype", "tags", "comment")


class VettingState(param.Parameterized):
    """The state of one person's session over one ranking.

    Parameters
    ----------
    spectra : astrolab.dashboards.cache.SpectrumCache
        The spectra to vet.
    session : astrolab.vetting.sessions.Session
        The person's session: it stores their verdicts, at the moment they are given, as far as their role allows.
    run_id : str
        The run, as it is shown.

    Attributes
    ----------
    position : int
        The place in this person's queue that is looked at.
    order : list of int
        The places in the order in which they come.
    targetid : str
        The object there, as the address of a page names it; setting an unknown one changes nothing.
    redshift : float
        At which lines are drawn; stored as inspected where it is not the ranking's. None is unknown.
    smoothing : int
        Sigma in pixels of the spectrum's smoothing.
    is_observed, with_lines, with_model, with_masks : bool
        What the spectrum's plot shows.
    with_arms : bool
        Show the spectrograph's single arms in place of their coadd.
    why_no_arms : str
        Why this object's cannot be shown; empty where they may be.
    line : str
        The spectral line that the plot is zoomed on; empty shows the whole spectrum.
    with_image : bool
        Show an image of the sky, which the browser asks another service for.
    flags, spectype, tags, comment : list, str, list, str
        What goes with the next verdict; tags are standard comments.
    asks_match : event
        The person wants to know which templates fit.
    chosen : frozenset of int or None
        The rows that the queue is narrowed to; None is all of them.
    verdicts : dict
        Place -> this person's verdict that stands there, as stored.
    moves : pandas.DataFrame or None
        What the last re-ranking moved.
    message : str
        What became of the last click: the stored tick with its time, or why nothing was stored.
    is_error : bool
        The message is an error.
    """

    position = param.Integer(default=0, bounds=(0, None))
    order = param.List(default=[])
    targetid = param.String(default="")
    redshift = param.Number(default=None, allow_None=True, bounds=(-0.5, 20))
    smoothing = param.Integer(default=0, bounds=(0, 10))
    is_observed = param.Boolean(default=False)
    line = param.String(default="")
    with_lines = param.Boolean(default=True)
    with_model = param.Boolean(default=True)
    with_masks = param.Boolean(default=True)
    with_arms = param.Boolean(default=False)
    why_no_arms = param.String(default="")
    flags = param.List(default=[])
    spectype = param.Selector(default="", objects=list(SPECTYPES))
    tags = param.List(default=[])
    comment = param.String(default="")
    chosen = param.Parameter(default=None)
    asks_match = param.Event()
    with_image = param.Boolean(default=False)
    verdicts = param.Dict(default={})
    moves = param.Parameter(default=None)
    message = param.String(default="")
    is_error = param.Boolean(default=False)

    def __init__(self, spectra, session, *, run_id):
        super().__init__()
        self.spectra, self.session, self.run_id = spectra, session, run_id
        self.may_write = session.role != "viewer"
        names = zip(self.table["targetid"], self._surveys(), strict=True)
        rows = {(int(targetid), survey): row for row, (targetid, survey) in enumerate(names)}
        self.row_of = [rows[slot.targetid, slot.survey] for slot in session.queue]
        # the first place of each object is the last one set
        self._places = {str(slot.targetid): slot.position for slot in reversed(session.queue)}
        self._position_of, self._drafts, self._page = {}, {}, uuid4().hex
        self.started, self.n_stored, self.seconds = time.monotonic(), 0, []
        self.order = session.kept_order() or [slot.position for slot in session.queue]
        self._read_verdicts()
        self._shown_at = self._shown = None
        first = next((at for at in self.order if at not in self.verdicts), 0)  # go on where one stopped
        if first:
            self.position = first
        else:
            self._follow_position()
        if len(self.verdicts) == len(self.order):
            self._say(self._end())

    @property
    def table(self):
        """What is known of each object, by row."""
        return self.spectra.table

    @property
    def row(self):
        """The row of the object that is looked at."""
        return self.row_of[self.position]

    @property
    def current(self):
        """What is known of the object that is looked at."""
        return self.table.iloc[self.row]

    @property
    def verdict(self):
        """The person's verdict that stands here, or None."""
        return self.verdicts.get(self.position)

    @property
    def redshift_ranked(self):
        """The redshift that the object was ranked at; None is unknown."""
        redshift = float(self.current["redshift"])
        return redshift if np.isfinite(redshift) else None

    @property
    def places(self):
        """The places of the queue as they come, narrowed to what is chosen."""
        return [at for at in self.order if self.chosen is None or self.row_of[at] in self.chosen]

    # --- where to look

    def step(self, by):
        """Go on by some places, or back; stop at the ends."""
        places = self.places
        if self.position not in places:  # an object that was not chosen: go on from where it stands
            before = set(self.order[: self.order.index(self.position)])
            places.insert(sum(at in before for at in places), self.position)
        place = places.index(self.position) + by
        if place >= len(places):
            self._say(self._end())
        self.position = places[int(np.clip(place, 0, len(places) - 1))]

    def choose(self, rows):
        """Narrow the queue to some rows, and go to the first of them without a verdict; None takes all again."""
        if rows is not None and not len(rows):
            self._say("no object with a spectrum lies there: nothing is chosen")
            return
        self.chosen = None if rows is None else frozenset(int(row) for row in rows)
        if rows is not None:
            self._say(f"{len(self.chosen)} objects chosen: your queue holds no others until you clear that")
            if self.row not in self.chosen:
                self.position = next((at for at in self.places if at not in self.verdicts), self.places[0])

    def go_to_row(self, row):
        """Go to the place at which an object comes first."""
        self.targetid = self.table["name"].iloc[row]

    def go_to_place(self, position):
        """Go to a place of the queue, if the object there is the one that is looked at."""
        queue = self.session.queue
        if position < len(queue) and str(queue[position].targetid) == self.targetid:
            self.position = position

    def step_redshift(self, by):
        """Move the redshift by some steps of 300 km/s."""
        if self.redshift is not None:
            low, high = self.param.redshift.bounds
            self.redshift = round(min(max((1 + self.redshift) * (1 + REDSHIFT_STEP) ** by - 1, low), high), 6)

    def step_line(self, by):
        """Zoom on the next of the major lines that the spectrum covers; after the last, the whole spectrum."""
        redshift = self.redshift or 0.0
        low, high = self.spectra.observed_range(self.redshift_ranked)
        lines = lines_between(low / (1 + redshift), high / (1 + redshift), only_major=True)
        names = ["", *(line.name for line in lines)]
        here = names.index(self.line) if self.line in names else 0
        self.line = names[(here + by) % len(names)]

    def redshift_choices(self):
        """Return the redshifts known of the object, the ranking's first: a list of (name, redshift)."""
        row = self.current
        names = ["redshift", "redshift_best"]
        names += [name for name in row.index if name.startswith("redshift_") and name[9:].isdigit()]
        known = {name: float(row[name]) for name in names if name in row.index and np.isfinite(row[name])}
        return list(known.items())

    def next_redshift(self):
        """Take the next of the redshifts known of the object."""
        values = [value for _, value in self.redshift_choices()]
        if values:
            here = values.index(self.redshift) if self.redshift in values else -1
            self.redshift = values[(here + 1) % len(values)]

    def reset_redshift(self):
        """Go back to the redshift that the object was ranked at."""
        self.redshift = self.redshift_ranked

    def toggle_arms(self):
        """Show single arms, or their coadd again; say so where the object's cannot be had."""
        self.spectra.arms.forget(self.row)
        self.why_no_arms = self.spectra.arms.why_not(self.row)
        if self.why_no_arms and not self.with_arms:
            self._say(f"no single arms: {self.why_no_arms}", is_error=True)
        else:
            self.with_arms = not self.with_arms

    # --- what is said

    def toggle_flag(self, flag):
        """Set or clear a flag, which goes with the next verdict."""
        self.flags = [one for one in self.flags if one != flag] if flag in self.flags else [*self.flags, flag]

    def store(self, label=None, quality=None, event=None):
        """Store a verdict on the object that is looked at; a quality also goes on to the next one.

        What was said there before and is not said anew stays; ``message`` tells what became of it.

        Parameters
        ----------
        label, quality : str, int, optional
            One of the two.
        event : str, optional
            The browser's name of the key stroke: sent twice, it is stored once.
        """
        before, position, slot = self.verdict or {}, self.position, self.session.queue[self.position]
        said = {"label": before.get("label", "") if label is None else label}
        said["quality"] = before.get("quality") if quality is None else quality
        # class and redshift are what the person saw and did not object to, also where they changed neither
        said |= {"flags": " ".join(self.flags), "spectype": self.spectype or self._ranked_class()}
        said |= {"redshift": self.redshift, "comment": self._comment()}
        said["seconds_spent"] = round(time.monotonic() - self._shown_at, 1)
        about = {"survey": slot.survey, "position": position, "key": f"{self._page}/{event or uuid4().hex}"}
        word = said["label"] if label is not None else f"quality {quality}"

        verdict = self._attempt(lambda: self.session.store_verdict(slot.targetid, **about, **said))
        if verdict is not None:
            self._position_of[verdict.id] = position
            self._drafts.pop(position, None)
            self._shown = self._draft()
            self.n_stored += 1
            self.seconds.append(said["seconds_spent"])
            self._keep(position, vars(verdict))
            end = f"; {self._end()}" if position == self.places[-1] or len(self.verdicts) == len(self.order) else ""
            self._say(f"stored ✓ {verdict.time:%H:%M:%S} UTC: {slot.targetid}, {word}{end}")
            if quality is not None and position != self.places[-1]:
                self.step(1)

    def undo(self, event=None):
        """Take back the last of this person's verdicts that stands; a new event, nothing is deleted."""

        def act():
            undone = self.session.undo_verdict(key=f"{self._page}/{event}" if event else None)
            position = self._position_of.get(undone.undoes, self._places[str(undone.targetid)])
            return undone, position, self.session.verdict_at(position)

        done = self._attempt(act)
        if done is not None:
            undone, position, before = done
            self._drafts.pop(position, None)
            self._keep(position, before)
            self.position = position
            self._show_said()
            self._say(f"undone ✓ {undone.time:%H:%M:%S} UTC: {undone.targetid}")

    def rank_again(self, of="mine"):
        """Rank again by this person's labels, or by what people agree on, and put the queue in the new order."""

        def act():
            labels = self.session.consensus_labels() if of == "consensus" else self.session.my_labels()
            if len({word == "anomaly" for word in labels.values() if word != "unsure"}) < 2:
                raise ValueError("to rank again, label at least one anomaly and one regular object or artefact.")
            return len(labels), *rank_by_labels(self.table, labels)

        done = self._attempt(act)
        if done is not None:
            n_labels, rows, self.moves = done
            self.order = merged_order(self.order, set(self.verdicts), self.row_of, rows)
            self._attempt(lambda: self.session.keep_order(self.order))
            self._say(f"ranked again by {n_labels} labels: see 'Ranked again'")

    def _attempt(self, act):
        """Return what the service answers, or None where it refuses: then the message says why."""
        try:
            return act()
        except (CatalogError, PermissionError, ValueError) as error:
            self._say(f"NOT done: {error}", is_error=True)
            return None

    def _end(self):
        n_left = sum(at not in self.verdicts for at in self.places)
        return end_of_queue(n_left, is_narrowed=self.chosen is not None, may_write=self.may_write)

    def _say(self, message, is_error=False):
        self.param.update(message=message, is_error=is_error)

    def _ranked_class(self):
        """Return the class that the object was ranked with, '' where that is none a verdict can name."""
        ranked = str(self.current["spectype"]) if "spectype" in self.table else ""
        return ranked if ranked in SPECTYPES else ""

    def _comment(self):
        return "; ".join([*self.tags, *([self.comment] if self.comment else [])])

    def _keep(self, position, verdict):
        kept = {place: said for place, said in self.verdicts.items() if place != position}
        self.verdicts = kept if verdict is None else kept | {position: _plain(verdict)}

    def _read_verdicts(self):
        """Read what this person said: one query, and one more for each place of an object that is shown twice."""
        mine = self.session.my_verdicts()
        mine = mine[mine["is_current"]].set_index(["targetid", "survey"])
        last = mine.to_dict("index")
        queue = self.session.queue
        twice = {(slot.targetid, slot.survey) for slot in queue if self._places[str(slot.targetid)] != slot.position}
        found = {}
        for slot in queue:
            name = (slot.targetid, slot.survey)
            if name in last:
                found[slot.position] = self.session.verdict_at(slot.position) if name in twice else last[name]
        self.verdicts = {place: _plain(said) for place, said in found.items() if said is not None}
        self._position_of = {said["id"]: place for place, said in self.verdicts.items()}

    def _surveys(self):
        return self.table["survey"].astype(str) if "survey" in self.table else [""] * len(self.table)

    def _show_said(self):
        """Show what stands here, or what was typed here and not stored yet."""
        said = self._drafts.get(self.position)
        if said is None:
            tags, comment = _split_comment((self.verdict or {}).get("comment", ""))
            about = self.verdict or {"flags": "", "spectype": ""}
            is_changed = about["spectype"] in SPECTYPES and about["spectype"] != self._ranked_class()
            spectype = about["spectype"] if is_changed else ""
            said = {"flags": about["flags"].split(), "spectype": spectype, "tags": tags, "comment": comment}
        redshift = (self.verdict or {}).get("redshift")
        self.param.update(**said, redshift=self.redshift_ranked if redshift is None else redshift)
        self._shown = self._draft()

    def _draft(self):
        return {name: getattr(self, name) for name in _DRAFT}

    def _keep_draft(self, position):
        if self._draft() != self._shown:
            self._drafts[position] = self._draft()
            self._say(
                "kept, but NOT stored yet: flags, class or comment of the last object need a verdict", is_error=True
            )

    @param.depends("position", watch=True)
    def _follow_position(self):
        if self._shown_at is not None and self._before != self.position:
            self._keep_draft(self._before)
        self._before, self._shown_at = self.position, time.monotonic()
        self._show_said()
        self.targetid = self.current["name"]
        place = self.order.index(self.position)
        self.why_no_arms = self.spectra.arms.why_not(self.row)
        self.spectra.prefetch([self.row_of[near] for near in self.order[max(place - 1, 0) : place + 3]])
        for near in self.order[place : place + 2] if self.with_arms else []:
            self.spectra.prefetch_arms(self.row_of[near])

    @param.depends("targetid", watch=True)
    def _follow_targetid(self):
        if self.targetid != self.current["name"]:
            self.position = self._places.get(self.targetid, self.position)


def _plain(verdict):
    """Return what of a stored verdict is shown."""
    names = ("id", "time", "label", "quality", "flags", "spectype", "redshift", "comment")
    said = {name: verdict[name] for name in names}
    said["quality"] = None if pd.isna(said["quality"]) else int(said["quality"])
    said["redshift"] = None if pd.isna(said["redshift"]) else float(said["redshift"])
    return said


def _split_comment(text):
    """Return the standard comments at the beginning of a comment, and the rest."""
    tags, parts = [], text.split("; ") if text else []
    while parts and parts[0] in STANDARD_COMMENTS:
        tags.append(parts.pop(0))
    return tags, "; ".join(parts)
