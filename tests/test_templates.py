"""Every template, found by glob: its form, and an execution on a small survey."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest

import astrolab as al
from astrolab.runs import ParameterError, find_template, list_templates, run_template, verify_run

TEMPLATES = sorted((Path(__file__).parents[1] / "templates").glob("*.ipynb"))
NAMES = [path.stem for path in TEMPLATES]

# what each template is given, and the products it must leave; {store} and {desi} are the small survey, {redshifts} what
# classify_spectra says of it
ARGUMENTS = {
    "build_redshift_templates": {"n_objects": 60, "n_check": 8},
    "classify_spectra": {"spectra_path": "{store}", "n_workers": 1},
    "ingest_survey": {"survey": "desi", "source_path": "{desi}", "out_path": "small.zarr"},
    "rank_anomalies": {
        "spectra_path": "{store}", "redshifts_path": "{redshifts}",
        "n_wavelength": 200, "n_latent": 4, "n_epochs": 2, "n_top": 10, "n_explain": 3,
        "n_models": 2, "n_workers": 1,
    },
}  # fmt: skip
PRODUCTS = {
    "build_redshift_templates": ["templates.safetensors", "templates.json"],
    "classify_spectra": ["redshifts.parquet", "redshifts.fits", "confusion.csv", "completeness.csv"],
    "ingest_survey": ["small.zarr", "ingest_report.json"],
    "rank_anomalies": [
        "ranking.parquet", "not_ranked.parquet", "explanations.parquet", "top.zarr", "scale.safetensors",
        "model/weights.safetensors", "model_1/weights.safetensors", "history.csv",
    ],
}  # fmt: skip


def _check_account(run_dir):
    report = json.loads((run_dir / "ingest_report.json").read_text())
    assert (report["rows_in"], report["rows_out"], report["rows_quarantined"]) == (13, 12, 1)
    assert "coadd-page.fits" in (run_dir / "ingest_survey.html").read_text()
    assert json.loads((run_dir / "manifest.json").read_text())["small.zarr/zarr.json"]["rows"] == 12


def _check_ranking(run_dir):
    ranking = pd.read_parquet(run_dir / "ranking.parquet")
    left_out = pd.read_parquet(run_dir / "not_ranked.parquet")
    assert len(ranking) + len(left_out) == 80
    assert ranking["targetid"].dtype == left_out["targetid"].dtype == "int64"
    given = json.loads((run_dir / "parameters.json").read_text())["redshifts_path"]
    measured = pd.read_parquet(given).set_index("targetid")
    assert (measured.loc[ranking["targetid"], "redshift"].to_numpy() == ranking["redshift"].to_numpy()).all()
    doubtful = left_out["reason"].str.startswith("its measured redshift is doubtful: ")
    assert set(left_out["targetid"][doubtful]) == set(measured.index[measured["redshift_warning"] != 0])
    assert ranking["anomaly_rank"].tolist() == list(range(1, len(ranking) + 1))
    manifest = json.loads((run_dir / "manifest.json").read_text())
    assert manifest["ranking.parquet"]["rows"] == len(ranking)
    assert (ranking["rank_low"] <= ranking["rank_high"]).all()
    # the second look is at the strangest alone, and what was not looked at is missing, not false
    assert ranking["is_redshift_doubtful"].notna().tolist() == [True] * 10 + [False] * (len(ranking) - 10)
    explained = pd.read_parquet(run_dir / "explanations.parquet")["targetid"]
    assert (
        set(explained) == set(ranking["targetid"].head(3)) == set(ranking.loc[ranking["explanation"] != "", "targetid"])
    )
    top = al.open_spectra(run_dir / "top.zarr")
    scale, models = (
        al.load_scale(run_dir / "scale.safetensors"),
        [al.load_model(run_dir / "model"), al.load_model(run_dir / "model_1")],
    )
    again = al.score_anomalies(models, top[["flux", "ivar"]], scale=scale).ranking.set_index("targetid")[
        "anomaly_score"
    ]
    stored = ranking.set_index("targetid")["anomaly_score"]
    assert (again - stored[again.index]).abs().max() < 0.1
    assert manifest["top.zarr/zarr.json"]["rows"] == 10


def _check_redshifts(run_dir):
    redshifts = pd.read_parquet(run_dir / "redshifts.parquet")
    assert len(redshifts) == 80
    assert redshifts["targetid"].dtype == "int64"
    assert set(redshifts["spectype"]) <= {"QSO", "GALAXY", "STAR", ""}
    assert json.loads((run_dir / "manifest.json").read_text())["redshifts.parquet"]["rows"] == 80


def _check_templates(run_dir):
    sets = al.open_templates(run_dir / "templates.safetensors")
    assert {one.spectype for one in sets} == {"QSO", "GALAXY", "STAR", ""}
    assert json.loads((run_dir / "templates.json").read_text())["made_from"] == "AstroLab's simulator"


CHECKS = {
    "build_redshift_templates": _check_templates,
    "classify_spectra": _check_redshifts,
    "ingest_survey": _check_account,
    "rank_anomalies": _check_ranking,
}


def _notebook(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def small_survey(tmp_path_factory):
    """Paths of a small simulated survey: as a store, and as DESI files."""
    from astrolab.simulation.desi_files import write_desi_files

    root = tmp_path_factory.mktemp("survey")
    spectra = al.simulate_survey(80, seed=1)
    # a few redshifts as no fit would give them, for reports on what disagrees
    spectra["redshift"].values[[5, 25, 45]] += 0.3
    al.save_spectra(spectra, root / "spectra.zarr")
    write_desi_files(spectra.isel(object=slice(12)), root / "desi")
    (root / "desi" / "coadd-page.fits").write_text("<html>not a FITS file</html>")
    return {"store": str(root / "spectra.zarr"), "desi": str(root / "desi")}


@pytest.fixture
def redshifts_path(small_survey, tmp_path):
    al.save_table(al.classify_spectra(al.open_spectra(small_survey["store"])), tmp_path / "redshifts.parquet")
    return str(tmp_path / "redshifts.parquet")


def test_there_are_templates_and_each_has_its_arguments_here():
    assert {"ingest_survey", "rank_anomalies"} <= set(NAMES)
    assert set(NAMES) == set(ARGUMENTS) == set(PRODUCTS) == set(CHECKS)
    assert set(NAMES) <= {template.name for template in list_templates()}


@pytest.mark.parametrize("path", TEMPLATES, ids=NAMES)
def test_form(path):
    notebook = _notebook(path)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [cell for cell in code if cell.outputs or cell.execution_count]
    assert len(code) <= 15
    for cell in code:
        tree = ast.parse(cell.source)
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        assert not [node for node in ast.walk(tree) if isinstance(node, kinds)], cell.source
        assert len(cell.source.splitlines()) <= 20


@pytest.mark.parametrize("name", NAMES)
def test_parameters(name):
    template = find_template(name)  # which refuses a line without type, literal or help
    by_name = {parameter.name: parameter for parameter in template.parameters}
    assert by_name["seed"].type == "int"
    assert any(parameter.is_input for parameter in template.parameters)
    for parameter in template.parameters:
        assert parameter.help
        assert not parameter.help.endswith(".")
        assert parameter.range or not parameter.is_number


TOO_FAR = [
    (name, parameter.name, end)
    for name in NAMES
    for parameter in find_template(name).parameters
    for end in (parameter.range or ())
]


@pytest.mark.parametrize(("name", "key", "end"), TOO_FAR)
def test_a_number_out_of_its_range_is_refused_before_anything_is_made(name, key, end, tmp_path):
    template = find_template(name)
    low, high = next(parameter.range for parameter in template.parameters if parameter.name == key)
    beyond = end + (1 if end == high else -1)
    with pytest.raises(ParameterError, match=rf"^parameter '{key}' of template '{name}' is .* from {low} to {high}"):
        run_template(name, run_dir=tmp_path / "run", **{key: beyond})
    with pytest.raises(ParameterError, match=rf"'{key}'.* is '{beyond}' \(str\), expected .* from {low} to {high}"):
        template.parse([(key, str(beyond))])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"wavelength_min": 8000.0},
            "'wavelength_min' and 'wavelength_max' .* are 8000.0 and 7500.0, expected the first",
        ),
        (
            {"redshift_max": 0.01},
            "'redshift_min' and 'redshift_max' .* expected the first below the second, such as 0.05",
        ),
        ({"n_top": 10.0}, r"'n_top' .* is 10.0 \(float\), expected int from 1 to 100000, such as 500\.$"),
        ({"spectype": "quasar"}, "'spectype' .* is 'quasar' .*, expected Literal"),
        ({"warm_start": "yes"}, "'warm_start' .* is 'yes' .*, expected Literal"),
    ],
)
def test_what_cannot_be_ranked_is_refused_before_anything_is_made(given, sentence, tmp_path):
    with pytest.raises(ParameterError, match=sentence):
        run_template("rank_anomalies", run_dir=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", NAMES)
def test_executes_on_a_small_survey(name, small_survey, request, tmp_path):
    places = dict(small_survey)
    if "redshifts_path" in ARGUMENTS[name]:
        places["redshifts"] = request.getfixturevalue("redshifts_path")
    given = {key: value.format(**places) if isinstance(value, str) else value for key, value in ARGUMENTS[name].items()}
    result = run_template(name, run_dir=tmp_path / "run", progress=False, **given)
    assert result.status == "succeeded"
    assert set(PRODUCTS[name]) <= set(result.products)
    assert verify_run(result.run_dir) == []
    html = (result.run_dir / f"{name}.html").read_text()
    assert find_template(name).title in html
    assert not re.findall(r"""<(?:script|link|img|iframe)\b[^>]*(?:src|href)=["']?https?:""", html)
    assert "https://cdn.holoviz.org" not in html
    assert "Warning:" not in html
    for path in result.run_dir.rglob("*.parquet"):
        assert str(tmp_path) not in pd.read_parquet(path).to_csv()
    CHECKS[name](result.run_dir)
