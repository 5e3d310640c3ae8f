"""A campaign: a run whose objects people vet, with its queues and audit sample drawn once and kept in the catalog."""

import pandas as pd

from astrolab.vetting.queues import draw_audit_sample
from astrolab.vetting.roles import check_role
from astrolab.vetting.sessions import Session


def open_campaign(catalog, run_id, ranking, *, model_version="", user="", audit_share=0.05, repeat_share=0.05, seed=0):
    """Offer the objects of a run for vetting, or go on with what is offered already.

    Parameters
    ----------
    catalog : astrolab.stores.catalog.Catalog
        Where verdicts go.
    run_id : str
        The run's name; the shares and the seed that were given first stay.
    ranking : pandas.DataFrame
        The objects that can be looked at, with ``targetid``, ``anomaly_rank``, and if known ``survey``, ``program`` and
        ``anomaly_score``.
    model_version : str, optional
        The model that ranked them; stored with every verdict.
    user : str, optional
        Who offers them, for the audit log.
    audit_share, repeat_share : float, optional
        Shares of a queue's slots that hold random objects and repeats; of the objects, for the audit sample.
    seed : int, optional
        Of the queues and the audit sample.

    Returns
    -------
    Campaign

    Raises
    ------
    ValueError
        If this run offers other objects already, or an argument cannot be.
    CatalogError
        If the catalog cannot be read or written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import pandas as pd
    >>> from astrolab.stores.catalog import open_catalog
    >>> ranking = pd.DataFrame({"targetid": [2**53 + 1, 2**53 + 3], "anomaly_rank": [1, 2]})
    >>> with TemporaryDirectory() as folder, open_catalog(f"sqlite:///{folder}/catalog.db") as catalog:
    ...     campaign = open_campaign(catalog, "run-1", ranking)
    ...     vera = campaign.session("vera", "vetter")
    ...     slot = vera.queue[0]
    ...     verdict = vera.store_verdict(slot.targetid, "anomaly", quality=4, position=slot.position)
    >>> verdict.user, verdict.quality
    ('vera', 4)
    """
    for name, share in (("audit_share", audit_share), ("repeat_share", repeat_share)):
        if not 0 <= share <= 0.4:
            raise ValueError(f"{name} is {share!r}, expected a share from 0 to 0.4.")
    objects = _objects(ranking, audit_share, seed)
    shares = {"seed": seed, "audit_share": audit_share, "repeat_share": repeat_share}
    run = catalog.offer_run(run_id, objects, **shares, model_version=model_version, user=user)
    offered = catalog.offered(run_id)
    if set(offered["targetid"]) != set(objects["targetid"]):
        raise ValueError(
            f"run {run_id!r} offers {len(offered)} other objects for vetting already, expected the same ones; "
            "give this ranking a run_id of its own."
        )
    return Campaign(catalog, run, offered, model_version)


class Campaign:
    """A run that people vet; `open_campaign` makes one. All sessions of a server share it.

    Parameters
    ----------
    catalog : astrolab.stores.catalog.Catalog
        Where verdicts go.
    run : dict
        The run as it is stored.
    offered : pandas.DataFrame
        Its objects, by rank.
    model_version : str
        The model that ranked them.
    """

    def __init__(self, catalog, run, offered, model_version=""):
        self.catalog, self.run, self.offered, self.model_version = catalog, run, offered, model_version
        self.run_id = run["run_id"]
        self._rows_of = offered.groupby("targetid").indices

    def session(self, user, role):
        """Open a person's session.

        Parameters
        ----------
        user : str
            From the login.
        role : str
            One of ``ROLES``.

        Returns
        -------
        Session
        """
        if not isinstance(user, str) or not user:
            raise ValueError(f"user is {user!r}, expected the name of a login.")
        return Session(self, user, check_role(role))

    def object_row(self, targetid, survey=None):
        """Return the row of an offered object; a survey is needed only where two have the targetid.

        Raises
        ------
        ValueError
            If the run does not offer such an object.
        """
        rows = [self.offered.iloc[row] for row in self._rows_of.get(targetid, [])]
        rows = [row for row in rows if survey is None or row["survey"] == survey]
        if len(rows) != 1:
            where = "" if survey is None else f" of survey {survey!r}"
            what = "objects in more than one survey" if rows else "no object"
            raise ValueError(f"run {self.run_id!r} offers {what} {targetid}{where}, expected one that it ranks.")
        return rows[0]


def _objects(ranking, audit_share, seed):
    """Return the table ``rankings`` of a run, by rank."""
    for name in ("targetid", "anomaly_rank"):
        if name not in ranking:
            raise ValueError(f"ranking has no {name!r}, expected a table such as ranking.parquet.")
    ranking = ranking.sort_values(["anomaly_rank", "targetid"])
    order, probability = draw_audit_sample(len(ranking), audit_share, seed)
    text = {name: ranking[name].astype(str).tolist() if name in ranking else "" for name in ("survey", "program")}
    return pd.DataFrame(
        {
            "targetid": ranking["targetid"].to_numpy("int64"),
            **text,
            "rank": ranking["anomaly_rank"].to_numpy("int64"),
            "score": ranking["anomaly_score"].to_numpy("float64") if "anomaly_score" in ranking else float("nan"),
            "audit_order": pd.Series(order, dtype="Int64").where(order > 0),
            "inclusion_probability": probability,
        }
    )
