"""The vetting page: look at the ranked spectra one after the other, and say what they are."""

import getpass

import panel as pn

from astrolab.dashboards.state import VettingState
from astrolab.dashboards.views import (
    empty_view,
    facts_view,
    help_view,
    keyboard_view,
    label_view,
    latent_view,
    progress_view,
    spectrum_view,
    table_view,
)
from astrolab.stores.catalog import open_catalog

pn.extension("tabulator", inline=True)


def vetting_app(ranked, *, run_id="notebook", catalog=None, user=None, ranking=None, model_version=""):
    """Make the page on which a person vets ranked spectra.

    Parameters
    ----------
    ranked : xarray.Dataset
        What `rank_anomalies` gives: dims ``(object, wavelength_rest)``, Å, in rank order; ``flux``, ``ivar``,
        ``flux_model``, ``latent``. Pixels with ``ivar == 0`` are left out of the plots.
    run_id : str, optional
        Verdicts are stored, and found again, under this name.
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
        If `ranked` is not a ranking.
    CatalogError
        If the catalog cannot be opened.
    """
    state = VettingState(
        ranked,
        catalog if catalog is not None else open_catalog(),
        run_id=run_id,
        user=user or getpass.getuser(),
        model_version=model_version,
    )
    return vetting_layout(state, ranking)


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
    if not state.n_objects:
        return pn.Column(empty_view(state.run_id), sizing_mode="stretch_width")
    left = pn.Column(progress_view(state), table_view(state), width=385, margin=(0, 8, 0, 0))
    middle = pn.Column(spectrum_view(state), facts_view(state), sizing_mode="stretch_width", min_width=480, margin=0)
    right = pn.Column(label_view(state), latent_view(state, ranking), width=320, margin=(0, 0, 0, 8))
    return pn.Column(
        pn.Row(left, middle, right, sizing_mode="stretch_width", margin=0),
        pn.Row(help_view(), keyboard_view(state), sizing_mode="stretch_width", margin=0),
        sizing_mode="stretch_width",
        margin=0,
    )
