"""Who a visitor of the vetting server is: a password file, or OAuth by Panel's own settings.

Both the page and its websocket ask; the websocket also wants the page's token to be of the same login, so that a token
that somebody stole opens nothing for another person.
"""

import asyncio
import os
import re
from pathlib import Path
from urllib.parse import urlencode

from bokeh.util.token import get_token_payload
from panel.auth import BasicAuthProvider, OAuthProvider
from panel.config import config
from tornado.web import HTTPError, decode_signed_value
from tornado.websocket import WebSocketHandler

from astrolab.vetting.passwords import PasswordFile

_TEMPLATE = Path(__file__).parent / "login.html"
_BESIDE = re.compile(r"\./[\w./-]*(\?\S*)?", re.ASCII)  # a page beside the login page, and no other server's
_NEEDED = ("PANEL_OAUTH_PROVIDER", "PANEL_OAUTH_KEY", "PANEL_OAUTH_SECRET", "PANEL_COOKIE_SECRET")


def password_login(users_path):
    """Return what `panel.serve` needs to ask for passwords.

    Parameters
    ----------
    users_path : path-like
        A password file that ``astrolab users add`` wrote.

    Returns
    -------
    provider : PasswordLogin
        It says users' roles too: ``role_of(user)``.
    cookie_secret : str
        What signs the cookies.

    Raises
    ------
    ValueError
        If the file is no password file, or others may read it.
    """
    users = PasswordFile(users_path)
    return PasswordLogin(users), users.cookie_secret


def oauth_login():
    """Return what `panel.serve` needs to log people in elsewhere.

    Panel's environment variables say where: ``PANEL_OAUTH_PROVIDER`` (``generic``, ``github``, ``gitlab`` …),
    ``PANEL_OAUTH_KEY``, ``PANEL_OAUTH_SECRET`` and ``PANEL_COOKIE_SECRET`` must be set; for ``generic``, which fits
    JupyterHub, ``PANEL_OAUTH_EXTRA_PARAMS`` holds ``{'AUTHORIZE_URL': 'https://HUB/hub/api/oauth2/authorize',
    'TOKEN_URL': 'https://HUB/hub/api/oauth2/token', 'USER_URL': 'https://HUB/hub/api/user', 'USER_KEY': 'name'}``.
    See https://panel.holoviz.org/how_to/authentication/configuration.html

    Returns
    -------
    provider : OAuthLogin
    cookie_secret : str

    Raises
    ------
    ValueError
        If one of the four is not set.
    """
    missing = [name for name in _NEEDED if not os.environ.get(name)]
    if missing:
        raise ValueError(
            f"--auth oauth needs {', '.join(missing)} in the environment, expected Panel's OAuth settings."
        )
    config.oauth_provider = os.environ["PANEL_OAUTH_PROVIDER"]
    return OAuthLogin(login_template=str(_TEMPLATE)), os.environ["PANEL_COOKIE_SECRET"]


class _Bound:
    """Let in only who is logged in, and a websocket only with the token of the same login."""

    get_user = None

    @property
    def get_user_async(self):
        """Return the function that Bokeh asks before it answers."""

        async def get_user(handler):
            user = await self._logged_in(handler)
            if isinstance(handler, WebSocketHandler) and (user is None or user != _user_of_token(handler)):
                raise HTTPError(403)  # before the handshake
            return user

        return get_user

    def _allow_guest(self, uri):
        return False  # whatever PANEL_OAUTH_OPTIONAL says


class PasswordLogin(_Bound, BasicAuthProvider):
    """A login page that asks a password file.

    All addresses are relative, and cookies are of the folder that the browser sees: a proxy may take a path off, and
    two servers behind one do not know of each other.

    Parameters
    ----------
    users : astrolab.vetting.passwords.PasswordFile
        Who may log in.
    """

    def __init__(self, users):
        self._users, self.role_of = users, users.role_of
        super().__init__(login_template=str(_TEMPLATE))

    @property
    def login_handler(self):
        """Return the handler of the login page."""
        users, template, provider = self._users, self._login_template, super().login_handler

        class Handler(provider):
            def get(self):
                asked = {name: self.get_argument(name, "") for name in ("next", "error")}
                self.write(template.render(next=asked["next"], errormessage=asked["error"]))

            async def post(self):
                name, password, asked = (self.get_argument(field, "") for field in ("username", "password", "next"))
                # hashing takes its time on purpose: not the time of those who are vetting
                if not await asyncio.to_thread(users.is_password, name, password):
                    self.redirect("login?" + urlencode({"error": 1, "next": asked}))
                    return
                is_secure = self.request.protocol == "https"
                days = config.oauth_expiry
                self.set_signed_cookie("user", name, days, path=None, httponly=True, samesite="Lax", secure=is_secure)
                self.redirect(asked if _BESIDE.fullmatch(asked) else "./")

        return Handler

    async def _logged_in(self, handler):
        handler.get_login_url = lambda: _login_address(handler)
        user = BasicAuthProvider.get_user.fget(self)(handler)
        return user if user and self.role_of(user) else None  # one who was removed is out at once


class OAuthLogin(_Bound, OAuthProvider):
    """Panel's OAuth, with tokens bound to logins."""

    async def _logged_in(self, handler):
        return await OAuthProvider.get_user_async.fget(self)(handler)


def _login_address(handler):
    """Return the login page's address as seen from a page, and with it how to come back."""
    prefix = handler.application.prefix
    here = handler.request.path.removeprefix(prefix)
    folder = "../" * (here.count("/") - 1) if here else prefix.rpartition("/")[2] + "/"
    query = handler.request.query and "?" + handler.request.query
    return f"{folder}login?" + urlencode({"next": "./" + here.lstrip("/") + query})


def _user_of_token(handler):
    """Return who loaded the page that a websocket belongs to, or None."""
    words = handler.request.headers.get("Sec-WebSocket-Protocol", "").split(",")
    if len(words) != 2:
        return None
    try:
        cookie = get_token_payload(words[1].strip()).get("cookies", {}).get("user")
    except ValueError:  # not a token at all
        return None
    user = decode_signed_value(config.cookie_secret, "user", cookie) if cookie else None
    return user.decode("utf-8") if user else None
