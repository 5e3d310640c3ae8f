"""Who may do what."""

ROLES = ("viewer", "vetter", "lead", "admin")  # each may do what those before it may


class NotAllowedError(PermissionError):
    """A person's role does not allow what they asked for; nothing was done."""


def check_role(role):
    """Return a role if it is one.

    Parameters
    ----------
    role : str
        One of ``ROLES``: a viewer looks, a vetter gives verdicts, a lead sees everyone's and decides where they
        disagree, an admin gives roles and reads the audit log.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If it is none.

    Examples
    --------
    >>> check_role("vetter")
    'vetter'
    """
    if role not in ROLES:
        raise ValueError(f"role is {role!r}, expected one of: {', '.join(ROLES)}.")
    return role


def require_role(user, role, needed, what):
    """Refuse what a role does not allow.

    Parameters
    ----------
    user, role : str
        Who asks.
    needed : str
        The least role that may.
    what : str
        What is asked for, as in "store verdicts".

    Raises
    ------
    NotAllowedError
        If the role is less.

    Examples
    --------
    >>> require_role("vera", "viewer", "vetter", "store verdicts")
    Traceback (most recent call last):
    astrolab.vetting.roles.NotAllowedError: 'vera' is a viewer and may not store verdicts, ...
    """
    if ROLES.index(role) < ROLES.index(needed):
        above = " or above" if needed != ROLES[-1] else ""
        raise NotAllowedError(
            f"{user!r} is a {role} and may not {what}, expected a {needed}{above}; ask an admin for the role."
        )
