"""The vetting service: roles are kept, queues are honest, statistics are right, recall covers what it says."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import hypergeom

from astrolab.stores.catalog import open_catalog
from astrolab.vetting.agreement import consensus, disagreements, measure_agreement, self_consistency
from astrolab.vetting.campaigns import open_campaign
from astrolab.vetting.queues import REPEAT_GAP, make_queue
from astrolab.vetting.recall import count_interval, estimate_recall
from astrolab.vetting.roles import ROLES, NotAllowedError

FIRST_ID = 2**53 + 1


def ranking_of(n_objects):
    targetid = FIRST_ID + 2 * np.arange(n_objects)
    rank = np.arange(1, n_objects + 1)
    return pd.DataFrame({"targetid": targetid, "anomaly_rank": rank, "survey": "main", "program": "dark"})


@pytest.fixture
def catalog(catalog_url):
    with open_catalog(catalog_url) as catalog:
        yield catalog


@pytest.fixture
def campaign(catalog):
    return open_campaign(catalog, "run", ranking_of(60), model_version="m1", audit_share=0.2, repeat_share=0.2)


def test_a_session_stores_who_what_and_where(campaign, catalog):
    vera = campaign.session("vera", "vetter")
    slot = vera.queue[0]
    said = {"quality": 4, "flags": "R", "spectype": "QSO", "redshift": 2.5, "comment": "é", "seconds_spent": 2.0}
    verdict = vera.store_verdict(slot.targetid, "anomaly", position=0, key="click", **said)
    assert vera.store_verdict(slot.targetid, "anomaly", position=0, key="click", **said) == verdict
    (row,) = catalog.verdicts("run").to_dict("records")
    assert (row["user"], row["targetid"], row["survey"], row["program"]) == ("vera", slot.targetid, "main", "dark")
    assert row["model_version"] == "m1"
    assert {name: row[name] for name in said} == said
    assert catalog.audit_log("run")["action"].tolist() == ["offer", "verdict"]
    with pytest.raises(ValueError, match="offers no object 5"):
        vera.store_verdict(5, "anomaly")
    for forged in ("is_adjudication", "user", "imported_by", "is_repeat"):
        with pytest.raises(TypeError):
            vera.store_verdict(slot.targetid, "anomaly", **{forged: "x"})


ACTIONS = {
    "store_verdict": ("vetter", lambda s: s.store_verdict(FIRST_ID, "anomaly")),
    "undo_verdict": ("vetter", lambda s: s.undo_verdict()),
    "agreement": ("lead", lambda s: s.agreement()),
    "confusion": ("lead", lambda s: s.confusion()),
    "self_consistency": ("lead", lambda s: s.self_consistency()),
    "adjudication_queue": ("lead", lambda s: s.adjudication_queue()),
    "consensus_labels": ("lead", lambda s: s.consensus_labels()),
    "adjudicate": ("lead", lambda s: s.adjudicate(FIRST_ID, "anomaly")),
    "import_verdicts": ("lead", lambda s: s.import_verdicts([])),
    "set_role": ("admin", lambda s: s.set_role("eve", "vetter")),
    "audit_log": ("admin", lambda s: s.audit_log()),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_roles_are_enforced_in_the_service(tmp_path, action):
    needed, act = ACTIONS[action]
    with open_catalog(f"sqlite:///{tmp_path / 'catalog.db'}") as catalog:
        campaign = open_campaign(catalog, "run", ranking_of(5))
        for role in ROLES:
            session = campaign.session(role, role)
            if ROLES.index(role) < ROLES.index(needed):
                n_events = len(catalog.verdicts()) + len(catalog.audit_log())
                with pytest.raises(NotAllowedError, match=f"'{role}' is a {role} and may not"):
                    act(session)
                assert len(catalog.verdicts()) + len(catalog.audit_log()) == n_events
            else:
                if action == "undo_verdict":
                    session.store_verdict(FIRST_ID, "regular")
                act(session)
    with pytest.raises(ValueError, match="role is 'root', expected one of: viewer, vetter, lead, admin"):
        campaign.session("eve", "root")


def test_others_are_hidden_until_one_has_voted(campaign):
    vera, edwin = (campaign.session(name, "vetter") for name in ("vera", "edwin"))
    lea, bob = campaign.session("lea", "lead"), campaign.session("bob", "viewer")
    targetid = vera.queue[0].targetid
    edwin.store_verdict(targetid, "anomaly", comment="BAL")
    at = next(slot.position for slot in bob.queue if slot.targetid == targetid)
    assert vera.verdict_at(0) is None
    assert vera.verdicts_at(0).empty
    assert lea.verdicts_at(next(s.position for s in lea.queue if s.targetid == targetid))["comment"].tolist() == ["BAL"]
    first = vera.store_verdict(targetid, "regular", position=0)
    assert vera.verdicts_at(0)["user"].tolist() == ["edwin", "vera"]
    assert vera.verdict_at(0)["label"] == "regular"
    assert bob.verdicts_at(at).empty
    vera.undo_verdict(first.id)
    assert vera.verdicts_at(0).empty
    assert "is_audit" not in vera.my_verdicts()
    assert vera.my_labels() == {}


def test_undo_takes_back_the_last_and_only_ones_own(campaign):
    vera, edwin = (campaign.session(name, "vetter") for name in ("vera", "edwin"))
    for slot, label in zip(vera.queue[:2], ("regular", "anomaly"), strict=True):
        last = vera.store_verdict(slot.targetid, label, position=slot.position)
    with pytest.raises(ValueError, match="nothing to undo"):
        edwin.undo_verdict()
    with pytest.raises(ValueError, match="can undo only their own"):
        edwin.undo_verdict(last.id)
    assert vera.undo_verdict().undoes == last.id
    assert vera.my_labels() == {vera.queue[0].targetid: "regular"}


def test_queues_are_each_persons_own_and_the_same_after_a_restart(campaign, catalog):
    again = open_campaign(catalog, "run", ranking_of(60), seed=5)  # what was drawn first stays
    vera, edwin = campaign.session("vera", "vetter"), campaign.session("edwin", "vetter")
    assert vera.queue == again.session("vera", "lead").queue
    assert vera.queue != edwin.queue
    assert set(vera.queue[0]._fields) == {"position", "targetid", "survey", "program"}  # no mark
    with pytest.raises(ValueError, match=r"offers 60 other objects .* run_id of its own"):
        open_campaign(catalog, "run", ranking_of(61))
    offered = catalog.offered("run")
    assert sorted(offered["audit_order"].dropna()) == list(range(1, 13))
    assert set(offered["inclusion_probability"]) == {0.2}


def test_a_queue_holds_every_object_once_and_its_repeats_later():
    n_objects = 2000
    audit_order = np.zeros(n_objects, "i8")
    audit_order[np.random.default_rng(1).permutation(n_objects)[:200]] = np.arange(1, 201)
    offered = pd.DataFrame({"audit_order": pd.Series(audit_order, dtype="Int64").where(audit_order > 0)})
    queue = make_queue(offered, "vera", seed=0, audit_share=0.1, repeat_share=0.1)
    first = queue[queue["kind"] != "repeat"]
    assert sorted(first["row"]) == list(range(n_objects))
    repeats = queue[queue["kind"] == "repeat"]
    assert repeats["row"].is_unique
    assert 150 < len(repeats) < 300
    place = pd.Series(first.index, index=first["row"])
    assert (repeats.index - place[repeats["row"]].to_numpy() >= REPEAT_GAP).all()
    audited = first.loc[first["kind"] == "audit", "row"].to_numpy()
    assert (np.diff(audit_order[audited]) > 0).all()
    head = first.loc[first["kind"] == "rank", "row"].to_numpy()
    assert (np.abs(np.argsort(np.argsort(head)) - np.arange(len(head))) < 10).all()  # shuffled within blocks only


def test_a_repeat_looks_new_and_measures_consistency(campaign):
    vera = campaign.session("vera", "vetter")
    again = vera._slots.index[vera._slots["kind"] == "repeat"][:2]
    for turn, position in enumerate(again):
        slot = vera.queue[position]
        first = next(s for s in vera.queue if s.targetid == slot.targetid)
        assert not vera.store_verdict(slot.targetid, "regular", position=first.position).is_repeat
        assert vera.verdict_at(position) is None
        assert vera.verdicts_at(position).empty
        assert vera.store_verdict(slot.targetid, ("regular", "anomaly")[turn], position=int(position)).is_repeat
        assert vera.verdict_at(first.position)["label"] == "regular"
    (row,) = campaign.session("lea", "lead").self_consistency().to_dict("records")
    assert (row["rater"], row["n_repeats"], row["n_same"], row["share"]) == ("vera", 2, 1, 0.5)
    assert row["share_low"] < 0.5 < row["share_high"]


def events_of(rows):
    """A small table of events: (user, object, label)."""
    table = pd.DataFrame(rows, columns=["user", "targetid", "label"])
    fixed = {"run_id": "run", "survey": "main", "imported_by": "", "quality": pd.NA, "undoes": pd.NA}
    marks = dict.fromkeys(("is_undone", "is_repeat", "is_audit", "is_adjudication"), False)
    return table.assign(id=range(len(table)), **fixed, **marks)


def alpha_by_hand(rows):
    """Krippendorff 2011, nominal: 1 - observed / expected disagreement, with plain loops."""
    units = {}
    for _, targetid, label in rows:
        units.setdefault(targetid, []).append(label)
    units = [labels for labels in units.values() if len(labels) > 1]
    values = [label for labels in units for label in labels]
    n = len(values)
    pairs = [(a, b, len(u)) for u in units for i, a in enumerate(u) for j, b in enumerate(u) if i != j]
    observed = sum((a != b) / (m - 1) for a, b, m in pairs) / n
    expected = sum(a != b for i, a in enumerate(values) for j, b in enumerate(values) if i != j) / (n * (n - 1))
    return 1 - observed / expected


def test_agreement_is_krippendorffs_alpha():
    rng = np.random.default_rng(0)
    rows = []
    for targetid in range(80):
        truth = rng.choice(["anomaly", "regular"])
        for user in ("vera", "edwin", "lea")[: rng.integers(1, 4)]:
            rows.append((user, targetid, truth if rng.random() < 0.8 else "unsure"))
    found = measure_agreement(events_of(rows))
    assert found.alpha == pytest.approx(alpha_by_hand(rows), abs=1e-12)
    assert found.alpha_low < found.alpha < found.alpha_high
    assert found.n_vetters == 3
    same = measure_agreement(events_of([("vera", 1, "anomaly"), ("edwin", 1, "anomaly"), ("vera", 2, "anomaly")]))
    assert np.isnan(same.alpha)


def test_people_disagree_a_lead_decides_and_the_consensus_follows(campaign):
    people = [campaign.session(name, "vetter") for name in ("vera", "edwin", "ada")]
    ids = [FIRST_ID + 2 * i for i in range(5)]
    words = ["anomaly anomaly regular", "anomaly regular", "unsure regular", "unsure", "artefact artefact artefact"]
    for targetid, said in zip(ids, words, strict=True):
        for person, word in zip(people, said.split(), strict=False):
            person.store_verdict(targetid, word)
    lea = campaign.session("lea", "lead")
    assert lea.adjudication_queue()["targetid"].tolist() == [ids[0], ids[1], ids[2]]
    assert lea.adjudication_queue()["said"][0] == "anomaly: vera, edwin; regular: ada"
    assert lea.consensus_labels() == {ids[0]: "anomaly", ids[2]: "regular", ids[3]: "unsure", ids[4]: "artefact"}
    decided = lea.adjudicate(ids[1], "artefact", comment="sky line")
    assert decided.is_adjudication
    assert lea.adjudication_queue()["targetid"].tolist() == [ids[0], ids[2]]
    assert lea.consensus_labels()[ids[1]] == "artefact"
    table = lea.confusion("vera", "edwin")
    assert table.loc["anomaly", "regular"] == table.loc["unsure", "regular"] == 1
    assert lea.confusion().equals(lea.confusion().T)
    lea.undo_verdict()
    assert ids[1] not in lea.consensus_labels()
    progress = people[0].progress()
    assert (progress.n_objects, progress.n_mine, progress.n_vetted) == (60, 5, 5)


def test_empty_tables_have_empty_statistics():
    events = events_of([])
    assert consensus(events) == {}
    assert disagreements(events).empty
    assert self_consistency(events).empty
    assert np.isnan(measure_agreement(events).alpha)


# --- recall


def interval_by_hand(n_objects, n_sample, n_hits, tail=0.025):
    """Try every number of hits: those whose mid-P on both sides is above the tail."""
    inside = []
    for n in range(n_hits, n_objects - n_sample + n_hits + 1):
        chance = hypergeom.pmf(np.arange(n_sample + 1), n_objects, n, n_sample)
        more, fewer = chance[n_hits + 1 :].sum(), chance[:n_hits].sum()
        if more + chance[n_hits] / 2 > tail and fewer + chance[n_hits] / 2 > tail:
            inside.append(n)
    return inside[0], inside[-1]


@pytest.mark.parametrize(("n_objects", "n_sample"), [(50, 10), (120, 40), (30, 30), (200, 7)])
def test_the_interval_is_the_inverted_distribution(n_objects, n_sample):
    for n_hits in {0, 1, n_sample // 3, n_sample}:
        estimate, low, high = count_interval(n_objects, n_sample, n_hits)
        assert (int(low), int(high)) == interval_by_hand(n_objects, n_sample, n_hits)
        assert estimate == pytest.approx(n_objects * n_hits / n_sample)


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_covers_what_it_says(seed):
    """2,000 campaigns of 3,000 objects: anomalies are likelier at the top, whose first 500 are vetted."""
    rng = np.random.default_rng(seed)
    n_campaigns, n_objects, n_head = 2000, 3000, 500
    chance = 0.02 + 0.6 * np.exp(-np.arange(n_objects) / 300)
    below = (rng.random((n_campaigns, n_objects - n_head), dtype="f4") < chance[n_head:]).sum(axis=1)
    n_sample = rng.integers(150, 600, n_campaigns)
    hits = rng.hypergeometric(below, n_objects - n_head - below, n_sample)
    estimate, low, high = count_interval(n_objects - n_head, n_sample, hits)
    covered = np.mean((low <= below) & (below <= high))
    assert 0.93 <= covered <= 0.97
    assert abs(np.mean(estimate - below)) < 4 * np.std(estimate - below) / np.sqrt(n_campaigns)  # unbiased


def test_200_whole_campaigns_cover_what_they_say():
    """The same through `estimate_recall`, with a random audit order, and what else people happened to look at."""
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n_objects, n_head, n_audit = 1500, 200, 300
        is_anomaly = rng.random(n_objects) < 0.03 + 0.6 * np.exp(-np.arange(n_objects) / 100)
        order = np.zeros(n_objects, "i8")
        order[rng.permutation(n_objects)[:n_audit]] = np.arange(1, n_audit + 1)
        targetid = FIRST_ID + 2 * np.arange(n_objects)
        offered = pd.DataFrame({"targetid": targetid, "audit_order": pd.Series(order, dtype="Int64").where(order > 0)})
        seen = np.flatnonzero((np.arange(n_objects) < n_head) | (order > 0) | (rng.random(n_objects) < 0.02))
        labels = {int(targetid[i]): "anomaly" if is_anomaly[i] else "regular" for i in seen}
        found = estimate_recall(offered, labels)
        remaining = int(np.delete(is_anomaly, seen).sum())
        assert found.n_found == is_anomaly[seen].sum()
        covered += found.n_remaining_low <= remaining <= found.n_remaining_high
    assert 0.93 <= covered / 200 <= 0.97


def test_recall_says_when_to_stop():
    offered = ranking_of(400)
    order = np.zeros(400, "i8")
    order[np.random.default_rng(0).permutation(400)[:200]] = np.arange(1, 201)
    offered = offered.assign(audit_order=pd.Series(order, dtype="Int64").where(order > 0))
    ids = offered["targetid"].tolist()
    start = estimate_recall(offered, {ids[0]: "anomaly"})
    assert "not known yet" in start.hint
    assert np.isnan(start.n_remaining)
    assert (start.n_remaining_low, start.n_remaining_high) == (0, 399)
    labels = {targetid: "anomaly" if i < 60 else "regular" for i, targetid in enumerate(ids) if i < 100 or order[i]}
    end = estimate_recall(offered, labels)
    assert end.n_remaining == 0
    assert end.recall == 1
    assert end.recall_low > 0.9
    assert "may stop" in end.hint or "vet on" in end.hint
    everything = estimate_recall(offered, dict.fromkeys(ids, "anomaly"))
    assert (everything.n_remaining_high, everything.recall, everything.hint) == (0, 1, "every object has a verdict.")
    skipped = next(targetid for targetid, place in zip(ids, order, strict=True) if place and targetid > ids[100])
    fewer = estimate_recall(offered, {k: v for k, v in labels.items() if k != skipped})
    assert fewer.n_audited < end.n_audited  # a skipped object is no random gap


def test_a_session_tells_the_recall_and_hides_who_said_it(campaign):
    vera = campaign.session("vera", "vetter")
    for slot in vera.queue[:40]:
        vera.store_verdict(slot.targetid, "regular", position=slot.position)
    found = campaign.session("bob", "viewer").recall()
    assert (found.n_objects, found.n_found) == (60, 0)
    assert found.n_remaining_high <= 60 - found.n_vetted
