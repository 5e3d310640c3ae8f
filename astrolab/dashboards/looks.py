"""Style sheets and words that several views share."""

# Bokeh draws the arrows of its fields black, in the dark too
FIELD = """
select.bk-input { appearance: auto !important; background-image: none !important; padding-right: 2px !important; }
.bk-spin-btn-up::before { border-bottom-color: var(--panel-on-background-color) !important; }
.bk-spin-btn-down::before { border-top-color: var(--panel-on-background-color) !important; }
"""


def nothing_html(title, whence, *steps):
    """Return what a page says that has nothing to show: why, and what to do next.

    Parameters
    ----------
    title, whence : str
        What is missing, and where; as they are, in HTML.
    *steps : str
        What to do, one after the other, in HTML.

    Returns
    -------
    str

    Examples
    --------
    >>> nothing_html("Nothing here", "It is empty.", "Fill it.").count("<li")
    1
    """
    listed = "".join(f"<li style='margin:8px 0'>{step}</li>" for step in steps)
    return (
        f"<div style='max-width:46em;margin:56px auto;padding:0 16px;font-size:15px;line-height:1.5'>"
        f"<h2 style='font-size:21px'>{title}</h2><p>{whence}</p><ol style='padding-left:1.4em'>{listed}</ol></div>"
    )


# for a ranking without objects
RANK_OTHERS = (
    "See why: <code>not_ranked.parquet</code> in the run folder names the reason of every object.",
    (
        "Rank others: <code>astrolab run rank_anomalies -p spectra_path STORE</code>, with "
        "<code>-p spectype any</code>, with a wider <code>-p redshift_max</code>, or with "
        "<code>-p redshifts_path</code> where redshifts are missing."
    ),
    "Then look at them: <code>astrolab vet RUN_DIR</code>.",
)
