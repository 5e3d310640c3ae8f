"""The password file of a vetting server: names, roles and hashed passwords, readable by its owner alone."""

import base64
import hashlib
import hmac
import json
import os
import secrets
import stat
from pathlib import Path
from tempfile import NamedTemporaryFile

from astrolab.vetting.roles import check_role

# 2**14 blocks of 1 kB, five times over: what OWASP's password storage cheat sheet asks of scrypt
_COST = {"n": 2**14, "r": 8, "p": 5}
_NAME_LIMIT = 64  # characters


class PasswordFile:
    """The people who may log in; read anew at each question, so that a change needs no restart.

    Parameters
    ----------
    path : path-like
        JSON that `add_user` wrote, mode 0600.

    Raises
    ------
    ValueError
        If it is not there, not such a file, or others may read it.
    """

    def __init__(self, path):
        self._path = Path(path)
        self._read()

    @property
    def cookie_secret(self):
        """What signs the login cookies: kept with the passwords, so that a restart logs nobody out."""
        return self._read()["cookie_secret"]

    def role_of(self, user):
        """Return a user's role, or None where there is no such user."""
        known = self._read()["users"].get(user)
        return known and known["role"]

    def is_password(self, user, password):
        """Return whether this is the user's password; as slow for a name that does not exist."""
        known = self._read()["users"].get(user)
        salt, expected = (base64.b64decode(known[name]) for name in ("salt", "hash")) if known else (b"-" * 16, b"")
        return hmac.compare_digest(_hash(password, salt), expected)

    def _read(self):
        _refuse_open_mode(self._path)
        return _read_file(self._path)


def add_user(path, user, role, password):
    """Add a person to a password file, or change their role and password; the file is made where there is none.

    Parameters
    ----------
    path : path-like
        The file; only its owner can read it.
    user : str
        The name to log in with.
    role : str
        One of ``astrolab.vetting.roles.ROLES``.
    password : str
        It is not kept: only its salted scrypt hash is.

    Raises
    ------
    ValueError
        If the name, role or password cannot be, or the file is not a password file.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     add_user(f"{folder}/users.json", "vera", "vetter", "a long password")
    ...     PasswordFile(f"{folder}/users.json").is_password("vera", "a long password")
    True
    """
    path = Path(path)
    if not user or len(user) > _NAME_LIMIT or not user.isprintable() or user != user.strip():
        raise ValueError(f"the name is {user!r}, expected up to {_NAME_LIMIT} printable characters.")
    if not password:
        raise ValueError("the password is empty, expected one; type it at the prompt, or pipe it in.")
    content = {"version": 1, "cookie_secret": secrets.token_hex(32), "users": {}}
    if path.exists():
        content = _read_file(path)
    salt = secrets.token_bytes(16)
    hashed = {"salt": salt, "hash": _hash(password, salt)}
    encoded = {name: base64.b64encode(value).decode() for name, value in hashed.items()}
    content["users"][user] = {"role": check_role(role)} | encoded
    # beside it and renamed: a reader never sees half a file; its mode is 0600 from the start
    with NamedTemporaryFile("w", dir=path.absolute().parent, prefix=".users-", delete=False, encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)


def _hash(password, salt):
    return hashlib.scrypt(password.encode("utf-8", "surrogatepass"), salt=salt, maxmem=2**26, **_COST)


def _refuse_open_mode(path):
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
    if mode & 0o077:
        raise ValueError(f"'{path}' may be read by others (mode {mode:04o}), expected 0600: chmod 600 '{path}'")


def _read_file(path):
    try:
        content = json.loads(path.read_text("utf-8"))
        for known in content["users"].values():
            check_role(known["role"])
            base64.b64decode(known["hash"])
        if content["version"] != 1 or len(content["cookie_secret"]) < 32:
            raise ValueError("version")
    except OSError as error:
        raise ValueError(
            f"'{path}' cannot be read ({error.strerror}), expected a password file; "
            f"make one: astrolab users add NAME --role vetter --file '{path}'"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"'{path}' is no password file, expected one that 'astrolab users add' wrote.") from error
    return content
