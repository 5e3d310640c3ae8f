"""The project itself: its lists of dependencies agree, its face is quick, its floors hold, its wheel is whole."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from importlib.metadata import entry_points
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement

import astrolab

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted([*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("templates/*.ipynb")])

# what constraints.txt was resolved for
TESTED = {
    "python_version": "3.11",
    "python_full_version": "3.11.9",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
}
CONDA_NAMES = {"torch": "pytorch-cpu", "dask": "dask-core"}
CONDA_GPU_NAMES = {"torch": "pytorch-gpu", "dask": "dask-core", "cupy-cuda13x": "cupy"}


def _requirements(*extras):
    """Requirements of the project and of some extras that hold where constraints.txt was resolved."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    requirements = [Requirement(line) for line in lines]
    return [
        requirement
        for requirement in requirements
        if requirement.name != PROJECT["name"] and (not requirement.marker or requirement.marker.evaluate(TESTED))
    ]


def _constraints():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def _environment(name):
    return yaml.safe_load((ROOT / name).read_text())


def _conda_specs(name):
    requirements = [
        Requirement(spec)
        for spec in _environment(name)["dependencies"]
        if not spec.startswith(("python=", "cuda-version="))
    ]
    return {requirement.name: requirement.specifier for requirement in requirements}


def _run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


# --- dependencies: three lists, one truth


def test_constraints_are_exact_pins_each_once():
    names = [re.fullmatch(r"([a-z0-9.-]+)==\S+", line)[1] for line in _constraints()]
    assert names == sorted(set(names))


@pytest.mark.parametrize("requirement", _requirements(*PROJECT["optional-dependencies"]), ids=str)
def test_dependency_has_a_pin_within_its_range(requirement):
    pins = dict(line.split("==") for line in _constraints())
    assert requirement.specifier.contains(pins[requirement.name])


@pytest.mark.parametrize(
    ("environment", "extras", "names"),
    [("environment.yml", ["lab", "s3"], CONDA_NAMES), ("environment-gpu.yml", ["lab", "s3", "gpu"], CONDA_GPU_NAMES)],
)
def test_conda_environment_has_the_ranges_of_pyproject(environment, extras, names):
    specs = _conda_specs(environment)
    wanted = {
        names.get(requirement.name, requirement.name): requirement.specifier for requirement in _requirements(*extras)
    }
    assert {name: specs.get(name) for name in wanted} == wanted


def test_gpu_environment_is_the_other_one_with_cuda():
    assert set(_conda_specs("environment.yml")) - set(_conda_specs("environment-gpu.yml")) == {"pytorch-cpu"}


def test_binder_builds_the_environment_that_is_tested():
    assert (ROOT / "binder" / "environment.yml").resolve() == ROOT / "environment.yml"
    for script in ("postBuild", "start"):
        assert (ROOT / "binder" / script).stat().st_mode & 0o111, f"binder/{script} is not executable"


# --- the face


def test_version_is_said_once():
    assert astrolab.__version__ == PROJECT["version"]


def test_import_is_quick_and_loads_nothing_heavy():
    code = (
        "import json, sys, time; start = time.perf_counter(); import astrolab; took = time.perf_counter() - start;"
        "print(json.dumps({'took': took, 'modules': sorted(sys.modules)}))"
    )
    results = [json.loads(_run(sys.executable, "-c", code, check=True).stdout) for _ in range(3)]
    assert not {"torch", "dask", "xarray", "panel", "holoviews", "numpy"} & set(results[0]["modules"])
    assert min(result["took"] for result in results) < 1.0


@pytest.mark.parametrize("name", astrolab.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(astrolab, name).__doc__


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'read_everything'"):
        astrolab.read_everything  # noqa: B018


def test_command_line_has_its_entry_point():
    (command,) = entry_points(group="console_scripts", name="astrolab")
    assert command.value == PROJECT["scripts"]["astrolab"]
    shown = _run(sys.executable, "-c", "from astrolab.cli import main; main()", "--help", check=True).stdout
    for name in ("simulate", "ingest", "templates", "run", "verify", "vet", "doctor"):
        assert re.search(rf"\b{name}\b", shown), f"astrolab --help does not show {name}"


# --- the house


def test_floors_hold():
    result = _run(Path(sys.executable).parent / "lint-imports", "--no-cache", cwd=ROOT)
    assert result.returncode == 0, result.stdout


def test_wheel_is_whole_and_lists_its_templates(tmp_path):
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", tmp_path, ROOT, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    files = [path for path in ROOT.glob("astrolab/**/*") if path.is_file() and "__pycache__" not in path.parts]
    sources = {path.relative_to(ROOT).as_posix() for path in files}
    shipped = {f"astrolab/_notebooks/{path.parent.name}/{path.name}" for path in NOTEBOOKS}
    inside = [name for name in names if ".dist-info/" not in name]
    assert Counter(inside) == Counter(sources | shipped)

    code = "import astrolab; print(astrolab.__file__, *(template.name for template in astrolab.list_templates()))"
    options = {"cwd": tmp_path, "env": {"PYTHONPATH": str(tmp_path / "installed")}, "check": True}
    file, *templates = _run(sys.executable, "-c", code, **options).stdout.split()
    assert Path(file).is_relative_to(tmp_path)
    assert templates == sorted(path.stem for path in ROOT.glob("templates/*.ipynb"))
    assert {"ingest_survey", "rank_anomalies"} <= set(templates)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_notebook_is_valid_and_carries_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    n_tagged = sum("parameters" in cell.metadata.get("tags", []) for cell in code)
    assert n_tagged == (1 if path.parent.name == "templates" else 0)


# --- what the files say


def _texts():
    """Text files of the project, without this one, which names what it looks for."""
    folders = ["astrolab", "tests", "benchmarks", "templates", "notebooks", "binder", ".ci"]
    paths = [*ROOT.glob("[!.]*"), *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    kinds = {".py", ".ipynb", ".md", ".toml", ".yml", ".yaml", ".txt", ""}
    return [path for path in paths if path.is_file() and path.suffix in kinds and path != Path(__file__)]


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"(?<![\w.])/(work|farm|root|Users|home/\w+)/\w", "a path of one machine"),
        (r"weights_only=False|allow_pickle=True|joblib\.load|yaml\.load\(|shell=True", "unsafe loading"),
        (r"\b(TODO|FIXME|XXX)\b|NotImplementedError", "something left to do"),
    ],
)
def test_no_file_has(pattern, why):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in _texts()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not found, f"{why}: " + "; ".join(found)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", ".ci/run"])
def test_make_targets_that_are_named_exist(document):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = re.findall(r"^[^a-z\n]*make ([a-z]+)|`make ([a-z]+)`", (ROOT / document).read_text(), re.MULTILINE)
    assert {first or second for first, second in commands} <= targets
