"""Serve the vetting and explorer pages of run folders on this machine's loopback address, to whoever logs in."""

import getpass
import logging
import os
import re
import secrets
import socket
from contextlib import nullcontext
from html import escape
from pathlib import Path
from typing import ClassVar

import pandas as pd
import panel as pn
from bokeh.models import CustomJS
from panel.template import VanillaTemplate
from tornado.websocket import WebSocketClosedError

from astrolab.dashboards.cache import SpectrumCache
from astrolab.dashboards.explorer import explorer_layout, open_survey
from astrolab.dashboards.explorer_state import ExplorerState
from astrolab.dashboards.login import oauth_login, password_login
from astrolab.dashboards.state import VettingState
from astrolab.dashboards.vetting import empty_view, vetting_layout
from astrolab.runs.manifest import verify_run
from astrolab.stores.catalog import CatalogError, open_catalog
from astrolab.vetting.campaigns import open_campaign
from astrolab.vetting.roles import check_role
from astrolab.vetting.run_folder import RunFolderError, open_run, ranking_columns

HOST = "127.0.0.1"
AUTH = ("none", "basic", "oauth")


def _is_news(record):
    """Return whether asyncio's message is more than that somebody closed a page while it was being sent to."""
    return not (record.exc_info and isinstance(record.exc_info[1], WebSocketClosedError))


logging.getLogger("asyncio").addFilter(_is_news)


def serve_runs(run_dirs, port=0, auth="none", users_path=None, open_browser=False, prefix=""):
    """Serve the vetting and explorer pages of run folders on this machine's loopback address, until interrupted.

    Prints the addresses once they answer. Every browser tab is a session of its own; verdicts are stored in the catalog
    under the run's id and the name of the login. For people elsewhere, put a web server with TLS in front, which passes
    websockets on and the Host header as it came, and name its host in ``BOKEH_ALLOW_WS_ORIGIN``.

    Parameters
    ----------
    run_dirs : list of path-like
        Run folders of ``rank_anomalies``; several are listed on the first page.
    port : int, optional
        0 takes a free one.
    auth : {"none", "basic", "oauth"}, optional
        Without a login, everybody on this machine is the person who started the server, with every right. With
        ``"basic"``, people are in the password file; with ``"oauth"``, Panel's settings say who logs them in (see
        `astrolab.dashboards.login.oauth_login`) and the catalog who they are: a viewer, unless ``astrolab users role``
        said more.
    users_path : path-like, optional
        The password file of ``"basic"``.
    open_browser : bool, optional
        Open the page in the default browser.
    prefix : str, optional
        The path at which that web server shows the pages, such as ``"/vetting"``, if it passes it on.

    Raises
    ------
    RunFolderError
        If a folder is not such a run, or does not match its manifest.
    StoreError
        If its spectra cannot be read.
    CatalogError
        If the catalog of verdicts cannot be opened.
    ValueError
        If the login is not configured.
    OSError
        If the port is taken.
    """
    prefix = check_prefix(prefix)
    runs = [open_verified(run_dir) for run_dir in run_dirs]
    regions = [_read_regions(run_dir) for run_dir in run_dirs]
    surveys = [open_survey(run_dir, run.ranked) for run_dir, run in zip(run_dirs, runs, strict=True)]
    login = _login(auth, users_path)
    with open_catalog() as catalog:
        role_of = getattr(login.get("auth_provider"), "role_of", lambda user: catalog.role_of(user) or "viewer")
        port = _free_port(port)
        server = pn.serve(
            _pages(runs, regions, surveys, catalog, role_of if login else None),
            address=HOST,
            port=port,
            websocket_origin=[f"{HOST}:{port}", f"localhost:{port}"],
            title="AstroLab vetting",
            show=open_browser,
            start=False,
            verbose=False,
            prefix=prefix,
            use_xheaders=True,  # only this machine can send them
            **login,
        )
        server.start()
        for survey, _ in surveys:
            survey.prefetch()
        # the loop runs this only when it runs, and then it answers
        address = f"http://{HOST}:{port}{prefix}/"
        explorer = "" if len(runs) > 1 else f"\nexplorer:     {address}explore"
        words = f"vetting page: {address}   (Ctrl+C stops it){explorer}"
        server.io_loop.add_callback(print, words, flush=True)
        try:
            server.io_loop.start()
        except KeyboardInterrupt:
            print("stopped; every label is stored.")
        finally:
            server.stop()


def check_prefix(prefix):
    """Return a path prefix with one slash in front and none behind, ``""`` for none.

    Raises
    ------
    ValueError
        If it is no path.

    Examples
    --------
    >>> check_prefix("user/vera/"), check_prefix("/")
    ('/user/vera', '')
    """
    parts = [part for part in prefix.split("/") if part]
    if any(not re.fullmatch(r"[A-Za-z0-9._~@-]+", part) or part in (".", "..") for part in parts):
        raise ValueError(f"prefix is {prefix!r}, expected a path such as /vetting: letters, digits, and . _ ~ @ -")
    return "".join(f"/{part}" for part in parts)


def serve_run(run_dir, port=0, **options):
    """Serve the vetting page of one run folder, see `serve_runs`."""
    serve_runs([run_dir], port, **options)


def open_verified(run_dir):
    """Open a run folder whose files match its manifest.

    Parameters
    ----------
    run_dir : path-like
        The run folder.

    Returns
    -------
    astrolab.vetting.run_folder.VettableRun

    Raises
    ------
    RunFolderError
        If it is not such a run, or a file of it has changed.
    """
    run = open_run(run_dir)
    problems = verify_run(run_dir) if (Path(run_dir) / "manifest.json").exists() else []
    if problems:
        raise RunFolderError(
            f"'{run_dir}' does not match its manifest ({problems[0].path}: {problems[0].what}), expected the files "
            f"that the run wrote; see all: astrolab verify '{run_dir}'"
        )
    return run


def _login(auth, users_path):
    """Return the options of `panel.serve` that ask for a login; none for none."""
    if auth not in AUTH:
        raise ValueError(f"auth is {auth!r}, expected one of: {', '.join(AUTH)}.")
    if (auth == "basic") != (users_path is not None):
        raise ValueError(
            f"--auth {auth} was given {'a' if users_path else 'no'} password file, expected --auth basic --users FILE; "
            "make one: astrolab users add NAME --role vetter --file FILE"
        )
    if auth == "none":
        return {}
    if "*" in os.environ.get("BOKEH_ALLOW_WS_ORIGIN", ""):
        raise ValueError("BOKEH_ALLOW_WS_ORIGIN holds '*', which lets every web page in, expected host names.")
    provider, cookie_secret = password_login(users_path) if auth == "basic" else oauth_login()
    return {
        "auth_provider": provider,
        "cookie_secret": cookie_secret,
        "sign_sessions": True,  # a token is one that this server made
        "secret_key": secrets.token_hex(32).encode(),
        "session_token_expiration": 86_400,  # s: a page left open reconnects the next day too
    }


def _read_regions(run_dir):
    """Return the named regions of a run's objects, or None where they were not explained."""
    path = Path(run_dir) / "explanations.parquet"
    return pd.read_parquet(path) if path.exists() else None


def _pages(runs, regions, surveys, catalog, role_of):
    """Return the page of each address; without `role_of`, everyone is the login name of this process."""
    owner = getpass.getuser()
    campaigns = [
        open_campaign(catalog, run.run_id, ranking_columns(run.ranked), model_version=run.model_version, user=owner)
        for run in runs
    ]
    caches = [SpectrumCache(run.ranked, named) for run, named in zip(runs, regions, strict=True)]

    def person():
        return (owner, "admin") if role_of is None else (pn.state.user, role_of(pn.state.user))

    def vet(number, explore_path):
        run, spectra, (survey, _) = runs[number], caches[number], surveys[number]
        session = campaigns[number].session(*person()) if len(spectra.table) else None
        return page(run, spectra, session, survey, explore_path)

    pages = {}
    for number in range(len(runs)):
        name = "" if len(runs) == 1 else str(number + 1)
        pages[f"/{name}"] = lambda number=number, explore_path=f"explore{name}": vet(number, explore_path)
        pages[f"/explore{name}"] = lambda number=number, vet_path=name or "./": explorer_page(
            runs[number], *surveys[number], *person(), vet_path
        )
    for run, spectra, campaign in zip(runs, caches, campaigns, strict=True):  # what the first visitor would wait for
        page(run, spectra, campaign.session(owner, "viewer") if len(spectra.table) else None).main[0].get_root()
    return pages if len(runs) == 1 else {"/": lambda: _index(runs)} | pages


def _index(runs):
    """Return the page that lists the runs of a server."""
    links = "".join(
        f'<li><a href="{number}">{escape(run.run_id)}</a> · <a href="explore{number}">the whole survey</a></li>'
        for number, run in enumerate(runs, start=1)
    )
    template = _Page(title="AstroLab vetting")
    template.main.append(pn.pane.HTML(f"<h2>Runs to vet</h2><ol>{links}</ol>"))
    return template


def page(run, spectra, session, survey=None, explore_path=None):
    """Make the page of one session.

    Parameters
    ----------
    run : astrolab.vetting.run_folder.VettableRun
        What to vet.
    spectra : astrolab.dashboards.cache.SpectrumCache
        Its spectra, shared by all pages.
    session : astrolab.vetting.sessions.Session or None
        The person's session; None where there is nothing to vet.
    survey : astrolab.dashboards.explorer_state.Survey, optional
        Where selections come from that were made on the explorer page.
    explore_path : str, optional
        The address of that page.

    Returns
    -------
    panel.template.VanillaTemplate
    """
    asked = _asked()
    who = f" · {session.role}: {session.user}" if session else ""
    link = None if explore_path is None else (explore_path, "explore the survey")
    # no busy indicator: it would send two messages an act
    template = _template(f"AstroLab vetting · {run.run_id}{who}", link, busy_indicator=None)
    template.main.append(_content(run, spectra, session, asked, survey))
    return template


def explorer_page(run, survey, source, user, role, vet_path):
    """Make the explorer page of one session; every role may look.

    Parameters
    ----------
    run : astrolab.vetting.run_folder.VettableRun
        The run.
    survey : astrolab.dashboards.explorer_state.Survey
        Its ranking, shared by all pages.
    source : astrolab.dashboards.explorer_stack.StackSource
        Its spectra, shared too.
    user, role : str
        From the login.
    vet_path : str
        The address of the vetting page.

    Returns
    -------
    panel.template.VanillaTemplate
    """
    template = _template(f"AstroLab explorer · {run.run_id} · {check_role(role)}: {user}", (vet_path, "vet"))
    template.main.append(explorer_layout(ExplorerState(survey), source, vet_path))
    return template


def _asked():
    return {name: values[0].decode("utf-8", "replace") for name, values in (pn.state.session_args or {}).items()}


def _template(title, link, **options):
    """Return an empty page, with a link (address, words) to another in its header."""
    template = _Page(title=title, theme="dark" if _asked().get("theme") == "dark" else "default", **options)
    template._render_variables["link"] = link
    if pn.state.curdoc is not None:
        pn.state.curdoc.js_on_event("connection_lost", CustomJS(code="window.lose_connection()"))
    return template


def _content(run, spectra, session, asked, survey):
    """Return what a page shows: the objects, or why there is none to be seen."""
    if session is None:
        return empty_view(run.run_id)
    try:
        state = VettingState(spectra, session, run_id=run.run_id)
    except CatalogError as error:
        return pn.pane.HTML(
            f"<h3>The catalog of verdicts does not answer</h3><p>{escape(str(error))}</p>"
            "<p>Nothing is lost. Reload this page once it is back.</p>"
        )
    if survey is not None and "among" in asked:
        _put_first(state, survey.handed_over(asked["among"]))
    _follow_address(state, asked)
    return vetting_layout(state, run.ranking)


def _put_first(state, chosen):
    """Put the objects that were selected on the explorer page first in the queue; the others keep their order."""
    if chosen is None:
        state.message = "that selection is not known any more: this is your whole queue; select again on the explorer"
        return
    queue = state.session.queue
    state.order = sorted(state.order, key=lambda at: queue[at].targetid not in chosen)
    state.position = next((at for at in state.order if at not in state.verdicts), state.order[0])
    state.message = f"{len(chosen):,} selected objects come first in your queue"


def _follow_address(state, asked):
    """Go where the address leads, and keep it, so that a reload or a link comes back to this object and view."""
    state.targetid = asked.get("targetid", state.targetid)
    if asked.get("place", "").isdecimal():  # an object that is shown again has two places
        state.go_to_place(int(asked["place"]) - 1)
    for name, kind in (("redshift", float), ("smoothing", int)):
        try:
            setattr(state, name, kind(asked[name]))
        except (KeyError, ValueError):  # not asked for, or no such number: as it is
            continue
    location = pn.state.location
    if location is not None:

        def keep(*_):
            is_moved = state.redshift != state.redshift_ranked
            location.update_query(
                targetid=state.targetid,
                place=state.position + 1,
                redshift=state.redshift if is_moved else None,
                smoothing=state.smoothing or None,
            )

        state.param.watch(keep, ["position", "redshift", "smoothing"])


class _Page(VanillaTemplate):
    """A page that asks for nothing from elsewhere, light or dark as the person's system is."""

    _template = Path(__file__).parent / "page.html"
    _css: ClassVar[list] = []
    _resources: ClassVar[dict] = {"css": {}}

    def _init_doc(self, doc=None, *arguments, **options):
        with doc.models.freeze() if doc else nullcontext():  # they are counted once, and not at each root
            return super()._init_doc(doc, *arguments, **options)


def _free_port(port):
    """Return the port, or a free one for 0; it is asked first, for the server would not say which one is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does, after a restart
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise OSError(error.errno, f"port {port} is in use, give another one, or 0 for a free one") from error
        return probe.getsockname()[1]
