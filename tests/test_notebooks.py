"""The notebooks for people: each runs from its first cell to its last, links to what exists, and is in the index."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def _links(path):
    cells = nbformat.read(path, as_version=4).cells
    targets = re.findall(r"\]\(([^)#\s]+)", "\n".join(cell.source for cell in cells if cell.cell_type == "markdown"))
    return [target for target in targets if "://" not in target]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_first_to_last_cell(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    try:
        client.execute()
    except CellExecutionError as error:
        pytest.fail(f"{path.name} stopped at a cell:\n{error}", pytrace=False)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    missing = [target for target in _links(path) if not (path.parent / target).exists()]
    assert not missing, f"{path.name} links to {missing}"


def test_index_links_every_other_notebook():
    index = next(path for path in NOTEBOOKS if path.stem == "index")
    assert set(_links(index)) >= {path.name for path in NOTEBOOKS if path != index}
