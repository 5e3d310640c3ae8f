"""The vetting page: look at the ranked spectra one after the other, and say what they are."""

import getpass
from hashlib import sha256
from html import escape

import panel as pn

from astrolab.dashboards.cache import SpectrumCache
from astrolab.dashboards.drawing import made_late
from astrolab.dashboards.facts import facts_view
from astrolab.dashboards.keyboard import keyboard_view
from astrolab.dashboards.latent_map import latent_view
from astrolab.dashboards.looks import RANK_OTHERS, nothing_html
from astrolab.dashboards.neighbours import neighbours_view
from astrolab.dashboards.progress import campaign_view, learning_view, progress_view
from astrolab.dashboards.spectrum_card import spectrum_view
from astrolab.dashboards.state import VettingState
from astrolab.dashboards.tables import chosen_view, queue_view, ranking_view
from astrolab.dashboards.team import team_view
from astrolab.dashboards.template_match import match_view
from astrolab.dashboards.verdict_form import verdict_view
from astrolab.stores.catalog import open_catalog
from astrolab.vetting.campaigns import open_campaign
from astrolab.vetting.run_folder import ranking_columns

pn.extension("tabulator", inline=True)

_FITTING = "@media (max-width: 1000px) { :host { min-width: 0 !important; } }"  # Panel adds up what stands side by side
_TABS = """
.bk-tab { padding: 2px 10px !important; font-size: 13px; color: var(--panel-on-background-color) !important; }
.bk-tab:hover { background: var(--panel-surface-color) !important; }
.bk-tab.bk-active { font-weight: 700; background: transparent !important; border-bottom: 3px solid #0072B2 !important; }
"""

# on a small screen, or enlarged to 200 %: the spectrum first, over the whole width, then form and queue side by side
_NARROW = """
@media (max-width: 1000px) {
  :host { flex-wrap: wrap !important; min-width: 0 !important; }
  .spectrum { order: -1; flex: 1 0 100% !important; }
  .queue { order: 1; }
}
"""


def vetting_app(ranked, *, run_id=None, catalog=None, user=None, ranking=None, model_version=""):
    """Make the page on which a person vets ranked spectra.

    Parameters
    ----------
    ranked : xarray.Dataset
        What `rank_anomalies` gives: dims ``(object, wavelength_rest)``, Å, in rank order; ``flux``, ``ivar``,
        ``flux_model``, ``latent``. Pixels with ``ivar == 0`` are left out of the plots.
    run_id : str, optional
        Verdicts are stored, and found again, under this name; by default "notebook" and a hash of the objects.
    catalog : Catalog, optional
        Where verdicts go; by default what `open_catalog` opens.
    user : str, optional
        Whose verdicts these are; by default the login name.
    ranking : pandas.DataFrame, optional
        Every ranked object (``ranking.parquet``), for the latent map; by default those of `ranked`.
    model_version : str, optional
        Stored with every verdict.

    Returns
    -------
    panel.Column
        Shows itself in a notebook; ``.servable()`` under ``panel serve``.

    Raises
    ------
    ValueError
        If `ranked` is not a ranking, or `run_id` is of other objects.
    CatalogError
        If the catalog cannot be opened.

    Examples
    --------
    >>> import astrolab as al
    >>> rest = al.normalize_flux(al.to_restframe(al.simulate_survey(40, seed=0), al.rest_grid(1000, 4000, 100)))
    >>> ranked = al.rank_anomalies(al.VAE(n_wavelength=100), rest, n_top=5)
    >>> al.vetting_app(ranked).servable()  # doctest: +SKIP
    >>> al.vetting_app(rest)
    Traceback (most recent call last):
    ValueError: ...
    """
    spectra = SpectrumCache(ranked)
    if run_id is None:
        run_id = f"notebook {sha256(','.join(sorted(spectra.table['name'])).encode()).hexdigest()[:8]}"
    if not len(spectra.table):
        return empty_view(run_id)
    user = user or getpass.getuser()
    catalog = catalog if catalog is not None else open_catalog()
    campaign = open_campaign(catalog, run_id, ranking_columns(ranked), model_version=model_version, user=user)
    return vetting_layout(VettingState(spectra, campaign.session(user, "admin"), run_id=run_id), ranking)


def vetting_layout(state, ranking=None):
    """Put the views of a state together.

    Parameters
    ----------
    state : VettingState
        The one state of this session.
    ranking : pandas.DataFrame, optional
        Every ranked object, for the latent map.

    Returns
    -------
    panel.Column
    """
    wide = {"sizing_mode": "stretch_width"}
    match = match_view(state)
    queue = made_late(lambda: queue_view(state), height=590, **wide)
    pages = {"My queue": lambda: queue, "By rank": lambda: ranking_view(state), "Templates": lambda: match}
    tables = _tabs(pages)
    state.param.watch(lambda _: tables.param.update(active=2), "asks_match")
    left = pn.Column(
        progress_view(state), chosen_view(state), tables, width=345, margin=(0, 6, 0, 0), css_classes=["queue"]
    )
    middle = pn.Column(
        spectrum_view(state),
        facts_view(state),
        made_late(lambda: neighbours_view(state), height=128, **wide),
        sizing_mode="stretch_width",
        min_width=480,
        margin=0,
        css_classes=["spectrum"],
    )
    latent = made_late(lambda: latent_view(state, ranking), height=250, **wide)
    right = pn.Column(verdict_view(state), latent, width=305, margin=(0, 0, 0, 6))
    desk = pn.Row(left, middle, right, sizing_mode="stretch_width", min_width=660, margin=0, stylesheets=[_NARROW])
    pages = {
        "Vet (? shows the keys)": lambda: desk,
        "Ranked again": lambda: learning_view(state),
        "Progress and recall": lambda: campaign_view(state),
    }
    if state.session.role in ("lead", "admin"):
        pages["Agreement"] = lambda: team_view(state)
    return pn.Column(_tabs(pages), keyboard_view(state), sizing_mode="stretch_width", margin=0, stylesheets=[_FITTING])


def empty_view(run_id):
    """Return what to do where a ranking has no objects."""
    return pn.Column(
        pn.pane.HTML(
            nothing_html(f"There is nothing to vet in {escape(run_id)}", "The ranking holds no objects.", *RANK_OTHERS),
            sizing_mode="stretch_width",
        )
    )


def _tabs(pages):
    """Return tabs; each page is made when it is looked at first, and read anew, if it can be, whenever it is again."""
    places = [pn.Column(margin=0, sizing_mode="stretch_width", stylesheets=[_FITTING]) for _ in pages]
    makers, readers = list(pages.values()), {}

    def show(number):
        if not len(places[number]):
            made = makers[number]()
            view, readers[number] = made if isinstance(made, tuple) else (made, lambda: None)
            places[number].append(view)
        readers[number]()

    show(0)
    named = zip(pages, places, strict=True)
    tabs = pn.Tabs(*named, dynamic=True, stylesheets=[_TABS, _FITTING], sizing_mode="stretch_width", margin=0)
    tabs.param.watch(lambda event: show(event.new), "active")
    return tabs
