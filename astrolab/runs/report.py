"""The HTML report of a run: the executed notebook as a page that opens without a network."""

import json
import re
from base64 import b64encode
from html import escape
from importlib.util import find_spec
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from astrolab.runs.parameters import INJECTED_TAG, TAG

# JupyterLab's page without what it would fetch (require.js, MathJax, Mermaid), and with the code folded away
_PAGE = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}
<style>
main { max-width: 1100px; margin: 0 auto; padding: 1em 2em 4em; }
body.jp-Notebook { overflow: auto; font-size: 15px; }
.jp-InputPrompt, .jp-OutputPrompt { display: none !important; }
.jp-OutputArea-child, .jp-InputArea, .jp-OutputArea-output { display: block !important; }
details.code > summary { cursor: pointer; color: #777; font: 12px sans-serif; margin: 6px 0; }
table.parameters td, table.parameters th { text-align: left !important; vertical-align: top; }
.jp-RenderedText[data-mime-type="application/vnd.jupyter.stderr"] { background: #f5f5f5; }
footer { color: #777; font: 13px sans-serif; border-top: 1px solid #ddd; margin-top: 3em; padding-top: 1em; }
</style>
{%- endblock -%}
{%- block input_group -%}
<details class="code"><summary>code</summary>{{ super() }}</details>
{%- endblock -%}
{%- block body_footer -%}
<footer>{{ resources.astrolab_footer }}</footer>
{{ super() }}
{%- endblock -%}
"""


def write_report(notebook_path, html_path, template, values, footer):
    """Write the HTML of an executed notebook: its title, a table of its parameters, its text, figures and tables.

    The code is there, folded. Nothing is fetched, now or when the page is opened, unless a figure itself does.

    Parameters
    ----------
    notebook_path, html_path : pathlib.Path
        The executed notebook, and where the report goes.
    template : Template
        Its template.
    values : dict
        Value of every parameter.
    footer : str
        A line for the end of the page.
    """
    notebook = nbformat.read(notebook_path, as_version=4)
    notebook.metadata.pop("widgets", None)  # live widgets need a page that fetches their code
    notebook.metadata["title"] = template.title
    notebook.cells = _with_table(notebook.cells, _parameter_table(template, values))
    for cell in notebook.cells:
        if cell.cell_type == "code":  # an output without data is a message between page and kernel: nothing to show
            cell.outputs = [output for output in cell.outputs if output.get("data", True)]
    exporter = HTMLExporter(raw_template=_PAGE, embed_images=True, exclude_anchor_links=True)
    html, _ = exporter.from_notebook_node(notebook, resources={"astrolab_footer": escape(footer)})
    html_path.write_text(_with_styles(html), encoding="utf-8")


def _with_styles(html):
    """Put the style sheets that figures would fetch from Panel's server into the page."""
    found = find_spec("panel")
    if found is None:
        return html
    dist = Path(found.origin).parent / "dist"

    def embed(match):
        path = dist / match[1]
        return f"data:text/css;base64,{b64encode(path.read_bytes()).decode()}" if path.is_file() else match[0]

    return re.sub(r"https://cdn\.holoviz\.org/panel/[\w.]+/dist/([\w./-]+\.css)(?:\?v=[\w.]+)?", embed, html)


def _with_table(cells, table):
    """Put the table where the parameters cells were."""
    shown = []
    for cell in cells:
        tags = cell.metadata.get("tags", [])
        if TAG in tags:
            shown.append(nbformat.v4.new_markdown_cell(table))
        elif INJECTED_TAG not in tags:
            shown.append(cell)
    return shown


def _parameter_table(template, values):
    rows = "".join(
        f"<tr><td><code>{parameter.name}</code></td><td><code>{_shown(values[parameter.name])}</code></td>"
        f"<td>{escape(parameter.help)}</td></tr>"
        for parameter in template.parameters
    )
    head = "<tr><th>parameter</th><th>value</th><th>meaning</th></tr>"
    return f'<table class="parameters"><thead>{head}</thead><tbody>{rows}</tbody></table>'


def _shown(value):
    return escape(value if isinstance(value, str) and value.isprintable() else json.dumps(value))
