"""What every plot shares: the backend, colours, sizes.

Colours are those of Okabe and Ito (2008), which people tell apart whatever their colour vision, and a grey that is
legible on white and on black.
"""

import re

import holoviews as hv

# inline: a notebook and its HTML export carry the scripts with them, and show their figures without a network
hv.extension("bokeh", inline=True, logo=False)

BLUE, ORANGE, GREEN, VERMILLION, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9"
GREY = "#7F858C"

SIZE = {
    "responsive": True,
    "min_width": 320,
    "max_width": 1400,
    "fontsize": {"title": "10pt", "labels": "10pt", "ticks": "9pt", "legend": "9pt"},
}


def harmless(text):
    """Return a text that begins no HTML tag.

    Texts come from survey files, and a notebook exported to HTML keeps its figures inside a script, unescaped: there a
    ``</script>`` would end it, and what follows would run.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str
        The same, but for every ``<`` that HTML would take as the start of a tag, which becomes ``‹``.

    Examples
    --------
    >>> harmless("S/N < 3 </script>")
    'S/N < 3 ‹/script>'
    """
    return re.sub(r"<(?=[a-zA-Z/!?])", "‹", text)
