"""What is known of an object in words: reasons, evidence of artefacts, position, and where to look further."""

from html import escape
from urllib.parse import urlencode

import numpy as np

from astrolab.dashboards.drawing import html_view

_STYLE = "a { color: inherit; } :host { overflow-wrap: anywhere; font-size: 13px; line-height: 1.3; }"


def facts_view(state):
    """Return the facts of the object that is looked at."""
    return html_view(
        state,
        ["position", "with_image"],
        lambda state: image_html(state.current) * state.with_image + facts_html(state.current),
        sizing_mode="stretch_width",
        height=86,
        margin=(2, 10),
        styles={"overflow": "auto"},
        stylesheets=[_STYLE],
    )


def facts_html(row):
    """Return the facts of one object as HTML, its texts inert.

    Parameters
    ----------
    row : mapping
        A row of the ranking: ``reasons``, ``redshift``, ``snr``, ``ra``, ``dec`` (degrees, ICRS); ``artefact_evidence``
        and ``redshift_best_reason`` where they are known.

    Returns
    -------
    str
    """
    clauses = [escape(clause) for clause in str(row["reasons"]).split("; ") if clause]
    hints = (("artefact_evidence", "artefact?"), ("redshift_best_reason", "redshift?"))
    clauses += [f"<b>{word}</b> {escape(text)}" for name, word in hints if (text := _text(row, name))]
    reasons = "".join(f"<li>{clause}</li>" for clause in clauses)
    links = " · ".join(
        f'<a href="{escape(url)}" target="_blank" rel="noopener noreferrer">{name}</a>'
        for name, url in sky_links(row["ra"], row["dec"]).items()
    )
    facts = (
        f"z {_number(row['redshift'], 'z.4f')} · S/N {_number(row['snr'], '.1f')} · "
        f"RA {_number(row['ra'], '.5f')}° · Dec {_number(row['dec'], '+.5f')}°"
    )
    return f'<div>{facts} · {links}</div><ul style="margin:2px 0 0;padding-left:18px">{reasons}</ul>'


def image_html(row):
    """Return the Legacy Survey's image of 25 arcsec around an object; nothing where there is none, or no network.

    The browser asks for it, and tells that service where you look: so only when the person wants it.
    """
    if not np.isfinite([row["ra"], row["dec"]]).all():
        return ""
    asked = {"ra": f"{row['ra']:.6f}", "dec": f"{row['dec']:.6f}", "layer": "ls-dr10", "pixscale": 0.262, "size": 96}
    address = escape("https://www.legacysurvey.org/viewer/cutout.jpg?" + urlencode(asked))
    style = "float:right;width:80px;height:80px;margin-left:8px"
    tags = 'alt="" referrerpolicy="no-referrer" onerror="this.remove()"'
    return f'<img src="{address}" style="{style}" {tags}>'


def sky_links(ra, dec):
    """Return pages of other services about a place on the sky.

    Parameters
    ----------
    ra, dec : float
        ICRS, degrees.

    Returns
    -------
    dict of str
        Name -> address; empty where the position is unknown.
    """
    if not np.isfinite([ra, dec]).all():
        return {}
    ra, dec = f"{ra:.6f}", f"{dec:+.6f}"
    legacy = {"ra": ra, "dec": dec, "layer": "ls-dr10", "zoom": 16, "mark": f"{ra},{dec}"}
    simbad = {"Coord": f"{ra} {dec}", "CooFrame": "ICRS", "Radius": 5, "Radius.unit": "arcsec"}
    ned = {"search_type": "Near Position Search", "ra": f"{ra}d", "dec": f"{dec}d", "radius": 0.1}
    aladin = {"target": f"{ra} {dec}", "fov": 0.02, "survey": "P/DESI-Legacy-Surveys/DR10/color"}
    return {
        "Legacy Survey": "https://www.legacysurvey.org/viewer?" + urlencode(legacy),
        "SIMBAD": "https://simbad.cds.unistra.fr/simbad/sim-coo?" + urlencode(simbad),
        "NED": "https://ned.ipac.caltech.edu/conesearch?" + urlencode(ned),
        "SDSS": "https://skyserver.sdss.org/dr18/VisualTools/quickobj?" + urlencode({"ra": ra, "dec": dec}),
        "Aladin": "https://aladin.cds.unistra.fr/AladinLite/?" + urlencode(aladin),
    }


def _text(row, name):
    text = row.get(name, "")
    return text if isinstance(text, str) else ""


def _number(value, digits):
    return format(value, digits) if np.isfinite(value) else "unknown"
