"""Style sheets that several views share."""

# Bokeh draws the arrows of its fields black, in the dark too
FIELD = """
select.bk-input { appearance: auto !important; background-image: none !important; padding-right: 2px !important; }
.bk-spin-btn-up::before { border-bottom-color: var(--panel-on-background-color) !important; }
.bk-spin-btn-down::before { border-top-color: var(--panel-on-background-color) !important; }
"""
