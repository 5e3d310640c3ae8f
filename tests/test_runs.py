"""Runs: parameters refused before a kernel starts, run folders that account for themselves and notice any change."""

import json
import random
import shutil
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
from rocrate.rocrate import ROCrate

from astrolab.runs import ParameterError, RunError, find_template, list_templates, run_template, verify_run
from astrolab.runs.progress import CellProgress
from astrolab.settings import settings

PARAMETERS = """
seed: int = 0  # seed of everything random
n_latent: int = 8  # latent dimensions
scale: float = 1.5  # a scale
label: str = "a # b"  # any text
is_strict: bool = False  # a switch
bands: list[float] = [1.0, 2.0]  # a list
names: list[str] = ["x"]  # names
kind: Literal["chi2", "band"] = "chi2"  # a choice
n_max: int | None = None  # a limit, or none
share: float | None = None  # a share, or none [0 to 1]
ages: list[int] = [3]  # ages [0 to 130]
flux_min: float | None = None  # from
flux_max: float = 2.0  # to
n_workers: int | None = None  # workers
cluster: str = "auto"  # where
source_path: str | None = None  # a file to read
source_paths: list[str] = []  # not an input: its name does not end so
spectra_path: str | None = None  # a store
out_path: str = "made/values.json"  # a file to write
""".strip()

WRITE = """
import csv, json
from pathlib import Path
Path(out_path).parent.mkdir(parents=True, exist_ok=True)
given = "seed n_latent scale label is_strict bands names kind n_max source_path out_path".split()
Path(out_path).write_text(json.dumps({name: globals()[name] for name in given}))
"""

TABLES = """
import sys, time
import pyarrow as pa, pyarrow.parquet as pq, zarr, numpy as np
pq.write_table(pa.table({"targetid": [1, 2, 3]}), "ranking.parquet")
Path("history.csv").write_text('epoch,loss\\n0,1\\n1,"a\\nb"\\n')
group = zarr.open_group("top.zarr", mode="w")
group.create_array("flux", data=np.ones((5, 7)), dimension_names=("object", "wavelength"))
for percent in range(0, 101, 10):
    sys.stderr.write(f"\\r{percent}% done")
    sys.stderr.flush()
    time.sleep(0.1)
"""


def write_template(folder, name, cells, parameters="seed: int = 0  # seed"):
    """Write a template of (heading, code) cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# The {name} template\n\nOf a test.")])
    notebook.cells.append(nbformat.v4.new_code_cell("from typing import Literal"))
    notebook.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    for title, code in cells:
        notebook.cells += [nbformat.v4.new_markdown_cell(f"## {title}"), nbformat.v4.new_code_cell(code.strip())]
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")


@pytest.fixture
def templates_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("ASTROLAB_TEMPLATES_DIR", str(tmp_path / "templates"))
    settings.cache_clear()
    write_template(tmp_path / "templates", "toy", [("Write", WRITE), ("Tables", TABLES)], PARAMETERS)
    return tmp_path / "templates"


HARD_TEXT = 'it\'s "quoted"; import os\n\\n \\" {seed} %s \r\t\u202e é 🜨 \x07 \ud7ff """ \'\'\' \\N{BULLET} \\'
GIVEN = {
    "seed": np.int64(2**62 + 1),
    "scale": 3,
    "label": HARD_TEXT,
    "is_strict": True,
    "bands": [0.1, 1e300],
    "names": [HARD_TEXT, "", "None"],
    "kind": "band",
    "n_max": 7,
    "out_path": "deep/er/values é.json",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the toy template, in a folder that papermill would take for a format; not to be changed."""
    root = tmp_path_factory.mktemp("finished")
    write_template(root / "templates", "toy", [("Write", WRITE), ("Tables", TABLES)], PARAMETERS)
    source_path = root / "source.txt"
    source_path.write_text("an input")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASTROLAB_TEMPLATES_DIR", str(root / "templates"))
        patch.chdir(root)
        settings.cache_clear()
        result = run_template(
            "toy", run_dir=root / "{seed} run", source_path=Path("source.txt"), **GIVEN, progress=False
        )
        assert Path.cwd() == root
    settings.cache_clear()
    return result


@pytest.fixture
def copied(finished, tmp_path):
    return Path(shutil.copytree(finished.run_dir, tmp_path / "copied elsewhere"))


# a run that succeeds


def test_values_arrive_exactly_as_given(finished):
    got = json.loads((finished.run_dir / GIVEN["out_path"]).read_text())
    source_path = str(finished.run_dir.parent / "source.txt")
    assert got == {**GIVEN, "seed": 2**62 + 1, "n_latent": 8, "source_path": source_path}
    assert type(got["scale"]) is float
    stored = json.loads((finished.run_dir / "parameters.json").read_text())
    assert {name: stored[name] for name in got} == got


def test_the_folder_holds_what_it_says(finished):
    assert finished.status == "succeeded"
    assert finished.products == sorted(
        ["deep/er/values é.json", "history.csv", "ranking.parquet", "top.zarr", "toy.html", "toy.ipynb"]
    )
    assert all((finished.run_dir / path).exists() for path in finished.products)
    assert not list(finished.run_dir.glob("*.part*")) + list(finished.run_dir.glob(".*"))
    manifest = json.loads((finished.run_dir / "manifest.json").read_text())
    files = {str(path.relative_to(finished.run_dir)) for path in finished.run_dir.rglob("*") if path.is_file()}
    assert set(manifest) == files - {"manifest.json", "manifest.sha256"}
    assert all(entry["size"] == (finished.run_dir / path).stat().st_size for path, entry in manifest.items())
    rows = {path: entry["rows"] for path, entry in manifest.items() if "rows" in entry}
    assert rows == {"ranking.parquet": 3, "history.csv": 2, "top.zarr/zarr.json": 5}


def test_run_json_tells_the_run(finished):
    run = json.loads((finished.run_dir / "run.json").read_text())
    assert (run["status"], run["template"], run["n_workers"]) == ("succeeded", "toy", None)
    assert run["started"] <= run["finished"]
    assert run["versions"]["papermill"]
    assert run["code"]["astrolab"]
    (given,) = run["inputs"]
    assert given["sha256"] == sha256(b"an input").hexdigest()


def test_executed_notebook_and_report(finished):
    notebook = nbformat.read(finished.run_dir / "toy.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    streams = [output.text for output in notebook.cells[-1].outputs if output.output_type == "stream"]
    assert "".join(streams).count("% done") <= 11
    assert "\r" not in "".join(streams)

    html = (finished.run_dir / "toy.html").read_text()
    assert "<title>The toy template</title>" in html
    assert "<td>latent dimensions</td>" in html
    assert "100% done" in html
    assert "import os</" not in html.split("<tbody>")[0]
    for fetched in ('src="http', "src='http", 'href="http', "@import", "url(http"):
        assert fetched not in html


def test_crate_reads_back_with_inputs_code_seed_and_outputs(finished):
    crate = ROCrate(finished.run_dir)
    (action,) = crate.get_by_type("CreateAction")
    assert "CompletedActionStatus" in str(action.properties()["actionStatus"])
    given = {entity["name"]: entity for entity in action["object"]}
    assert given["seed"]["value"] == str(2**62 + 1)
    assert given["label"]["value"] == HARD_TEXT
    assert given["source.txt"]["contentSize"] == "8"
    assert len(given["source.txt"]["sha256"]) == 64
    assert "papermill" in {one["name"] for one in action["instrument"]["softwareRequirements"]}
    made = {entity["name"]: entity for entity in action["result"]}
    manifest = json.loads((finished.run_dir / "manifest.json").read_text())
    assert made["ranking.parquet"]["sha256"] == manifest["ranking.parquet"]["sha256"]
    assert set(made) == set(finished.products)


# verifying


def test_a_copied_folder_verifies(finished, copied):
    assert verify_run(finished.run_dir) == []
    assert verify_run(str(copied)) == []


def _files(run_dir):
    return sorted(path for path in run_dir.rglob("*") if path.is_file())


def test_any_flipped_byte_is_found(copied):
    draw = random.Random(0)
    for path in _files(copied):
        content = path.read_bytes()
        places = {0, len(content) - 1, *(draw.randrange(len(content)) for _ in range(15))}
        for place in places:
            flipped = bytearray(content)
            flipped[place] ^= 1 << draw.randrange(8)
            path.write_bytes(flipped)
            problems = verify_run(copied)
            assert problems, (path, place)
            name = path.relative_to(copied).as_posix()
            assert problems[0].path == ("manifest.json" if name == "manifest.sha256" else name)
        path.write_bytes(content)
    assert verify_run(copied) == []


def test_any_truncated_grown_emptied_or_deleted_file_is_found(copied):
    for path in _files(copied):
        content = path.read_bytes()
        for other in (content[:-1], content[: len(content) // 2], b"", content + b"\n", None):
            path.unlink() if other is None else path.write_bytes(other)
            assert verify_run(copied), path
            path.write_bytes(content)
    assert verify_run(copied) == []


def test_extra_files_links_and_pipes_are_found(copied, tmp_path):
    def problem_of(path):
        (found,) = verify_run(copied)
        path.unlink()
        assert found.path == path.relative_to(copied).as_posix()
        return found.what

    extra = copied / "top.zarr" / "extra"
    extra.write_text("x")
    assert problem_of(extra) == "not in the manifest"
    link = copied / "link"
    link.symlink_to(tmp_path)
    assert "link" in problem_of(link)
    (copied / "pipe").hardlink_to(copied / "history.csv")
    assert problem_of(copied / "pipe") == "not in the manifest"

    same = tmp_path / "same.csv"  # a link to the very same bytes is still not a file of the folder
    shutil.move(copied / "history.csv", same)
    (copied / "history.csv").symlink_to(same)
    assert "link" in verify_run(copied)[0].what
    (copied / "history.csv").unlink()
    shutil.copy(same, copied / "history.csv")
    assert verify_run(copied) == []


def test_a_manifest_that_lists_files_outside_reads_none(copied, tmp_path):
    from astrolab.runs.manifest import _hash_line

    (tmp_path / "secret").write_text("x")
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["../secret"] = {"sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881", "size": 1}
    content = json.dumps(manifest).encode()
    (copied / "manifest.json").write_bytes(content)
    (copied / "manifest.sha256").write_bytes(_hash_line(content))
    assert verify_run(copied) == [("../secret", "missing")]


def test_what_is_no_run_folder(tmp_path):
    assert verify_run(tmp_path)[0].path == "manifest.json"
    with pytest.raises(FileNotFoundError, match="run folder"):
        verify_run(tmp_path / "nothing")


# runs that do not succeed


def _problems_after(result):
    assert {"run.json", "parameters.json", "manifest.json", "ro-crate-metadata.json", "toy.ipynb", "toy.html"} <= {
        path.name for path in result.run_dir.iterdir()
    }
    ROCrate(result.run_dir)
    return verify_run(result.run_dir)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("made = 1\nraise ValueError('first line\\nsecond line')", r"failed: ValueError: first line;"),
        ("import os\nos.kill(os.getpid(), 9)", "failed: the kernel died"),
        ("raise SystemExit(0)", "ended the notebook before its last cell"),
    ],
)
def test_a_failing_run_says_which_cell_and_why_and_keeps_everything(templates_dir, code, why):
    product = "open('early.txt', 'w').write('kept')"
    write_template(templates_dir, "toy", [("Begin", product), ("Fit the model", code), ("End", "print('end')")])
    with pytest.raises(RunError, match=why) as caught:
        run_template("toy", progress=False)
    assert (caught.value.result.run_dir / "kernel.log").exists() == ("kernel died" in why)
    assert "cell 5 (Fit the model)" in str(caught.value)
    result = caught.value.result
    assert str(result.run_dir) in str(caught.value)
    assert (result.status, "early.txt" in result.products) == ("failed", True)
    assert _problems_after(result) == []
    assert json.loads((result.run_dir / "run.json").read_text())["status"] == "failed"
    executed = nbformat.read(result.run_dir / "toy.ipynb", as_version=4)
    assert executed.cells[-1].execution_count is None


def test_a_template_that_leaves_a_link_fails(templates_dir, tmp_path):
    (tmp_path / "secret").write_text("x")
    code = f"import os\nos.symlink({str(tmp_path / 'secret')!r}, 'made.txt')"
    write_template(templates_dir, "toy", [("Link", code)])
    with pytest.raises(RunError, match=r"it left 'made\.txt', a link"):
        run_template("toy", progress=False)


def test_a_folder_of_temporary_files_may_have_a_long_name(templates_dir, tmp_path, monkeypatch):
    long = tmp_path / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    write_template(templates_dir, "toy", [("Write", "open('made.txt', 'w').close()")])
    assert (run_template("toy", progress=False).run_dir / "made.txt").exists()


def test_run_dir_is_new_or_empty(templates_dir, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("dear")
    for taken in (tmp_path / "full", tmp_path / "full" / "mine.txt"):
        with pytest.raises(FileExistsError, match="not empty"):
            run_template("toy", run_dir=taken)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


# refused before a kernel starts

ATTACKS = [
    # names
    {"n_latnet": 8},
    {"x=1;import os;os.system('touch pwned')": 1},
    {"seed\nimport os": 1},
    {"__class__": 1},
    {"": 1},
    {"!!python/object/apply:os.system": "touch pwned"},
    {"Seed": 1},
    {"name ": 1},
    # types
    {"n_latent": "8"},
    {"n_latent": 8.5},
    {"n_latent": True},
    {"n_latent": None},
    {"n_latent": [8]},
    {"scale": "1.5"},
    {"scale": float("nan")},
    {"scale": float("inf")},
    {"label": 5},
    {"label": None},
    {"label": {"!!python/name": "os.system"}},
    {"label": b"bytes"},
    {"is_strict": 1},
    {"is_strict": "yes"},
    {"bands": (1.0, 2.0)},
    {"bands": ["1.0"]},
    {"bands": 1.0},
    {"kind": "chi3"},
    {"n_max": "None"},
    {"seed": object()},
    # outputs
    {"out_path": "../escaped.txt"},
    {"out_path": "sub/../../escaped.txt"},
    {"out_path": "/tmp/escaped.txt"},
    {"out_path": "~/escaped.txt"},
    {"out_path": "file:///tmp/escaped.txt"},
    {"out_path": "s3://bucket/escaped.txt"},
    {"out_path": "C:\\escaped.txt"},
    {"out_path": "..\\escaped.txt"},
    {"out_path": ""},
    {"out_path": "."},
    {"out_path": "a\0b"},
    {"out_path": "a\nb"},
    {"out_path": "manifest.json"},
    {"out_path": "RUN.json/x"},
    {"out_path": "toy.ipynb"},
    # inputs
    {"source_path": "nothing/there.fits"},
    {"source_path": ""},
    {"source_path": "nothing-*.fits"},
    {"source_path": "a\0b"},
    {"spectra_path": "."},
    {"spectra_path": "{tmp}/a file"},
    {"spectra_path": "{tmp}/dangling"},
]


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_refused_before_a_kernel_starts(templates_dir, tmp_path, attack):
    (tmp_path / "a file").write_text("not a store")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    attack = {
        name: value.replace("{tmp}", str(tmp_path)) if isinstance(value, str) else value
        for name, value in attack.items()
    }
    children = psutil.Process().children(recursive=True)
    with pytest.raises(ParameterError, match="template 'toy'") as caught:
        run_template("toy", **attack)
    assert "\n" not in str(caught.value)
    assert psutil.Process().children(recursive=True) == children
    assert not settings().runs_dir.exists()
    assert not list(tmp_path.rglob("*pwned*")) + list(tmp_path.rglob("*escaped*"))


TEXT_ATTACKS = [
    ("n_latent", "eight"),
    ("n_latent", "8; import os"),
    ("n_latent", "__import__('os')"),
    ("n_latent", "1e3x"),
    ("n_latent", "None"),
    ("scale", "nan"),
    ("scale", "inf"),
    ("is_strict", "perhaps"),
    ("bands", "!!python/object/apply:os.system [ls]"),
    ("bands", "1,2"),
    ("bands", '["a"]'),
    ("kind", "CHI2"),
    ("n_max", "none at all"),
    ("n_latnet", "8"),
]


@pytest.mark.parametrize(("name", "text"), TEXT_ATTACKS)
def test_text_of_the_wrong_type_is_refused(templates_dir, name, text):
    with pytest.raises(ParameterError, match="template 'toy'"):
        find_template("toy").parse([(name, text)])


def test_text_becomes_the_type_of_its_parameter(templates_dir):
    toy = find_template("toy")
    pairs = [("n_latent", "16"), ("scale", "2"), ("is_strict", "true"), ("bands", "[1, 2.5]"), ("names", '["a", "é"]')]
    pairs += [("kind", "band"), ("n_max", "None"), ("label", HARD_TEXT), ("seed", "-3")]
    assert toy.parse(pairs) == {
        "n_latent": 16, "scale": 2.0, "is_strict": True, "bands": [1.0, 2.5], "names": ["a", "é"],
        "kind": "band", "n_max": None, "label": HARD_TEXT, "seed": -3,
    }  # fmt: skip
    assert toy.parse([("label", "None"), ("n_max", "5"), ("source_path", "None")]) == {
        "label": "None", "n_max": 5, "source_path": None,
    }  # fmt: skip
    with pytest.raises(ParameterError, match="given twice"):
        toy.parse([("seed", "1"), ("seed", "2")])


def test_the_sentences(templates_dir):
    with pytest.raises(ValueError, match=r"^template 'toy' has no parameter 'n_latnet'; did you mean 'n_latent'\?$"):
        run_template("toy", n_latnet=8)
    with pytest.raises(ValueError, match=r"^parameter 'n_latent' of template 'toy' is '8' \(str\), expected int\.$"):
        run_template("toy", n_latent="8")
    with pytest.raises(ValueError, match=r"^there is no template 'tpy'; did you mean 'toy'\?$"):
        run_template("tpy")
    for name in ("../toy", str(templates_dir / "toy"), "toy.ipynb", ""):
        with pytest.raises(ValueError, match="there is no template"):
            run_template(name)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"share": 1.5},
            r"^parameter 'share' of template 'toy' is 1.5 \(float\), expected float \| None from 0 to 1\.$",
        ),
        ({"ages": [1, 131]}, r"'ages' .* is \[1, 131\] \(list\), expected list\[int\] from 0 to 130, such as \[3\]"),
        (
            {"flux_min": 2.0},
            "^parameters 'flux_min' and 'flux_max' of template 'toy' are 2.0 and 2.0, expected the first",
        ),
    ],
)
def test_a_value_out_of_its_range_is_refused(templates_dir, given, sentence):
    with pytest.raises(ParameterError, match=sentence):
        run_template("toy", **given)
    assert not settings().runs_dir.exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"cluster": "cpus"}, "got kind='cpus'; expected one of 'auto'"),
        ({"cluster": "cpu", "n_workers": 0}, "got n_workers=0; expected at least 1"),
        (
            {"cluster": "tcp://127.0.0.1:9"},
            "no Dask scheduler answers at tcp://127.0.0.1:9 within 1 s; start one there",
        ),
        ({"cluster": "tcp://127.0.0.1:9", "n_workers": 2}, "leave n_workers out"),
    ],
)
def test_a_cluster_that_is_not_there_is_said_before_anything_is_made(templates_dir, monkeypatch, given, sentence):
    monkeypatch.setattr("astrolab.compute.clients.CONNECT_SECONDS", 1)
    with pytest.raises((ValueError, ConnectionError), match=sentence):
        run_template("toy", **given)
    assert not settings().runs_dir.exists()


BAD_CELLS = [
    "seed: int = 0",
    "seed = 0  # no type",
    "seed: int  # no default",
    "seed: int = 'a'  # wrong default",
    "seed: int = 0  # seed\nimport os",
    "seed: int = 0  # seed\nx: str = os.getcwd()  # not a literal",
    "seed: int = 0  # seed\nx: dict = {}  # not a type for a parameter",
    "seed: int = 0  # seed\nx: int | str = 0  # not a type for a parameter",
    "seed: int = 0  # seed\nx: __import__('os') = 0  # code for a type",
    "seed: int = 0  # seed\nx: list[dict] = []  # a list of what",
    "seed: int = 0  # seed\nx: list[int] = [\n1]  # two lines",
    "seed: int = 0  # seed\nx.y: int = 0  # not a name",
    "seed: int = 0  # seed\nseed: int = 1  # twice",
    "seed: int = 0  # seed\nrun_dir: str = ''  # taken",
    "seed: int = 0  # seed\nout_n: int = 3  # an output that is a number",
    "seed: float = 0.0  # not an int",
    "seed: int = 0  # seed\ncluster: int = 0  # not the house's type",
    "n: int = 0  # no seed",
    "seed: int = 0  # the default is outside [1 to 5]",
    "seed: int = 0  # from five to one [5 to 1]",
    "seed: int = 0  # not how a range is written [0-5]",
    "seed: int = (  # not Python",
    "",
]


@pytest.mark.parametrize("cell", BAD_CELLS)
def test_a_template_with_a_bad_parameters_cell(templates_dir, cell):
    write_template(templates_dir, "bad", [], cell)
    with pytest.raises(ParameterError, match="template 'bad'"):
        run_template("bad")
    assert not settings().runs_dir.exists()


def test_a_template_that_lost_its_tag_or_is_no_notebook(templates_dir):
    notebook = nbformat.read(templates_dir / "toy.ipynb", as_version=4)
    notebook.cells[2].metadata["tags"] = []
    nbformat.write(notebook, templates_dir / "bad.ipynb")
    with pytest.raises(ParameterError, match="0 cells tagged 'parameters'"):
        run_template("bad")
    for content in ("", "<html>", "{}", "[]", '{"cells": 3, "nbformat": 4}'):
        (templates_dir / "bad.ipynb").write_text(content)
        with pytest.raises(ParameterError, match="is not a notebook"):
            run_template("bad")


def test_templates_are_listed_with_types_defaults_and_help(templates_dir):
    toy = next(template for template in list_templates() if template.name == "toy")
    assert toy.title == "The toy template"
    label = next(parameter for parameter in toy.parameters if parameter.name == "label")
    assert (label.type, label.default, label.help) == ("str", "a # b", "any text")


# progress


def test_progress_is_legible_in_a_log_file(capsys):
    cells = [nbformat.v4.new_markdown_cell("# Title\n\n## Train [bold]"), nbformat.v4.new_code_cell("fit()")]
    started = time.monotonic()
    with CellProgress(cells, is_shown=True) as shown:
        shown.start_cell(cell=cells[1], cell_index=1)
        for percent in range(150):
            shown.write(f"\r{percent}%|█#####| [bold]")
            time.sleep(0.01)
        shown.write("\nthe end\n")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "[1/1] Train [bold]"
    assert lines[-1] == "    the end"
    assert any("%|█#####| [bold]" in line for line in lines)
    assert len(lines) <= 4 + (time.monotonic() - started)
