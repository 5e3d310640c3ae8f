"""The command line: the contract's commands, JSON alone on stdout, one sentence and an exit code for every mistake."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest

import astrolab
from astrolab.cli import main
from astrolab.settings import settings

ASTROLAB = [sys.executable, "-c", "from astrolab.cli import main; main()"]


def write_toy(folder, code, parameters=""):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Toy\n\n## Work")])
    source = "seed: int = 0  # seed\nlabel: str = ''  # any text\n" + parameters
    notebook.cells += [nbformat.v4.new_code_cell(source.strip(), metadata={"tags": ["parameters"]})]
    notebook.cells += [nbformat.v4.new_code_cell(code)]
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / "toy.ipynb")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setenv("ASTROLAB_TEMPLATES_DIR", str(tmp_path / "templates"))
    settings.cache_clear()
    write_toy(tmp_path / "templates", "print(label)\nopen('label.txt', 'w', newline='').write(label)")
    return tmp_path / "templates"


@pytest.fixture
def astrolab_says(capfd):
    """Run a command in this process; returns exit code, stdout, stderr."""

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return ended.value.code or 0, out, err

    return run


HEAVY = ("torch", "xarray", "papermill", "nbformat", "jsonschema", "distributed")


@pytest.mark.parametrize("modules", ["astrolab.cli", "astrolab.cli, astrolab.runs.status, astrolab.runs.manifest"])
def test_what_no_command_needs_at_its_start_is_not_loaded(modules):
    loaded = f"import sys, {modules}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_version_is_quick():
    started = time.monotonic()
    done = subprocess.run([*ASTROLAB, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"astrolab {astrolab.__version__}\n"
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("command", ["simulate", "ingest", "templates", "run", "verify", "vet", "doctor"])
def test_every_command_has_help(astrolab_says, command):
    code, out, err = astrolab_says(command, "--help")
    assert (code, err) == (0, "")
    assert f"Usage: astrolab {command}" in out


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["run", "tpy"], 1, "there is no template 'tpy'; did you mean 'toy'?"),
        (["run", "toy", "-p", "lable", "x"], 1, "template 'toy' has no parameter 'lable'; did you mean 'label'?"),
        (["run", "toy", "-p", "seed", "one"], 1, "parameter 'seed' of template 'toy' is 'one' (str), expected int."),
        (["run", "toy", "-p", "seed=1;import os", "1"], 1, "template 'toy' has no parameter 'seed=1;import os'"),
        (["run", "toy", "--n-workers", "2"], 1, "template 'toy' has no parameter 'n_workers'"),
        (["run", "toy", "-p", "seed", "1", "-p", "seed", "2"], 1, "given twice"),
        (["run", "toy", "-p", "seed"], 2, "a name and a value"),
        (["run"], 2, "Missing argument"),
        (["run", "toy", "--run-dir", "."], 1, "not empty"),
        (["verify", "nothing/there"], 1, "nothing/there is not a folder"),
        (["simulate", "taken", "--n-objects", "2"], 1, "is there already"),
        (["simulate", "x", "--n-objects", "0"], 2, "'--n-objects'"),
        (["simulate", "x", "--format", "csv"], 2, "'csv' is not one of"),
        (["ingest", "lamost", "x", "--out", "y"], 2, "'lamost' is not one of"),
        (["ingest", "sdss", "nothing/there", "--out", "y"], 1, "nothing/there"),
        (["ingest", "sdss", "taken"], 2, "--out"),
        (["vet", "nothing/there"], 1, "nothing/there"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_mistakes_end_in_one_sentence(toy, tmp_path, monkeypatch, astrolab_says, arguments, code, sentence):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("x")
    got, out, err = astrolab_says(*arguments)
    assert got == code, err
    assert out == ""
    assert "Traceback" not in err
    if code == 1:
        assert err.startswith("astrolab: ")
        assert err.count("\n") == 1
    assert sentence in " ".join(err.replace("│", " ").split())
    assert Path("taken").read_text() == "x"


def test_run_as_json_is_alone_on_stdout(toy, tmp_path, astrolab_says):
    label = 'a "b"; import os\n--json -p é'
    code, out, err = astrolab_says(
        "run", "toy", "-p", "label", label, "-p", "seed", "-1", "--run-dir", tmp_path / "here", "--json"
    )
    assert code == 0, err
    assert json.loads(out) == {
        "run_dir": str(tmp_path / "here"),
        "status": "succeeded",
        "products": ["label.txt", "toy.html", "toy.ipynb"],
    }
    assert "[3/3] Work" in err
    assert (tmp_path / "here" / "label.txt").read_text() == label

    assert astrolab_says("verify", tmp_path / "here")[0] == 0
    (tmp_path / "here" / "label.txt").write_text("changed")
    code, out, err = astrolab_says("verify", tmp_path / "here")
    assert (code, out.startswith("label.txt: changed")) == (1, True)


def test_a_failing_run_says_which_cell_and_why(toy, tmp_path, astrolab_says):
    write_toy(toy, "raise ValueError('no [bold] luck')")
    code, out, err = astrolab_says("run", "toy", "--json", "--run-dir", tmp_path / "here")
    assert code == 1
    assert json.loads(out)["status"] == "failed"
    assert "astrolab: template 'toy': cell 3 (Work) failed: ValueError: no [bold] luck;" in err
    assert "Traceback" not in err
    assert astrolab_says("verify", tmp_path / "here")[0] == 0


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_finishes_its_folder_and_ends_its_kernel(toy, tmp_path, sent, hear_interrupts):
    code = "import os, time, pathlib\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(60)"
    write_toy(toy, code)
    run_dir = tmp_path / "here"
    process = subprocess.Popen(
        [*ASTROLAB, "run", "toy", "--run-dir", str(run_dir)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=hear_interrupts,
    )
    try:
        _wait_for(lambda: (run_dir / "pid").exists() and (run_dir / "pid").read_text(), 60)
        time.sleep(0.5)
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert json.loads((run_dir / "run.json").read_text())["status"] == "interrupted"
    nbformat.validate(nbformat.read(run_dir / "toy.ipynb", as_version=4))
    main_verify = subprocess.run([*ASTROLAB, "verify", str(run_dir)], capture_output=True, text=True)
    assert main_verify.returncode == 0, main_verify.stdout
    kernel = int((run_dir / "pid").read_text())
    _wait_for(lambda: not Path(f"/proc/{kernel}/stat").exists(), 10)


def _wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_the_strangest_are_shown_after_a_ranking(toy, tmp_path, astrolab_says):
    ranking = pd.DataFrame({
        "targetid": [39627322701128423 + rank for rank in range(12)], "redshift": 2.1234567, "anomaly_score": 9.87,
        "anomaly_rank": range(12, 0, -1), "reasons": "C IV [bold]stronger",
    })  # fmt: skip
    ranking.to_parquet(tmp_path / "source.parquet")
    write_toy(toy, f"import shutil\nshutil.copy({str(tmp_path / 'source.parquet')!r}, 'ranking.parquet')")
    code, out, _ = astrolab_says("run", "toy", "--run-dir", tmp_path / "here")
    assert code == 0
    assert str(39627322701128423 + 11) in out
    assert str(39627322701128423 + 1) not in out
    assert "C IV [bold]stronger" in out
    assert str(tmp_path / "here" / "toy.html") in out
    assert f"astrolab vet {tmp_path / 'here'}" in out


def test_templates_lists_parameters(toy, astrolab_says):
    code, out, _ = astrolab_says("templates")
    assert code == 0
    for word in ("toy", "rank_anomalies", "ingest_survey", "n_latent", "int | None", "any text"):
        assert word in out


def test_doctor_says_what_works_and_what_to_install(astrolab_says):
    code, out, _ = astrolab_says("doctor")
    assert code == 0
    for word in ("python", "torch", "cluster gpu", "cluster gateway", "home", "catalog", "runs"):
        assert word in out
    assert "[gpu]" in out
    assert not settings().home.exists()  # to look is not to make


def test_simulate_then_ingest_accounts_for_every_row(tmp_path, astrolab_says):
    code, out, err = astrolab_says(
        "simulate", tmp_path / "desi", "--n-objects", "12", "--seed", "3", "--format", "desi"
    )
    assert code == 0, err
    (tmp_path / "desi" / "page.fits").write_text("<html>not a FITS file</html>")
    store = tmp_path / "spectra.zarr"
    code, out, err = astrolab_says("ingest", "desi", tmp_path / "desi", "--out", store, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["rows_in"] == report["rows_out"] + report["rows_quarantined"] == 13
    (record,) = report["quarantined"]
    assert record["path"].endswith("page.fits")
    assert record["reason"]

    code, out, err = astrolab_says("ingest", "desi", tmp_path / "desi", "--out", tmp_path / "strict.zarr", "--strict")
    assert code == 1
    assert "page.fits" in out
    assert "rows in 13, rows out 12, rows quarantined 1" in out
    code, out, err = astrolab_says("ingest", "desi", tmp_path / "desi", "--out", tmp_path / "again.zarr")
    assert (code, "rows in 13, rows out 12, rows quarantined 1" in out) == (0, True)


def test_simulate_a_store(tmp_path, astrolab_says):
    code, _, err = astrolab_says("simulate", tmp_path / "spectra.zarr", "--n-objects", "5")
    assert code == 0, err
    assert astrolab.open_spectra(tmp_path / "spectra.zarr").sizes["object"] == 5


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("ASTROLAB_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(["verify", "nothing/there"])


def test_the_kernel_does_not_outlive_a_killed_run(toy, tmp_path):
    write_toy(toy, "import os, time, pathlib\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(60)")
    process = subprocess.Popen(
        [*ASTROLAB, "run", "toy", "--run-dir", str(tmp_path / "here")], stderr=subprocess.DEVNULL
    )
    pid_path = tmp_path / "here" / "pid"
    _wait_for(lambda: pid_path.exists() and pid_path.read_text(), 60)
    process.kill()
    process.wait()
    kernel = int(pid_path.read_text())
    _wait_for(lambda: not _is_alive(kernel), 15)
    assert json.loads((tmp_path / "here" / "run.json").read_text())["status"] == "running"
    done = subprocess.run([*ASTROLAB, "verify", str(tmp_path / "here")], capture_output=True, text=True)
    assert (done.returncode, "did not finish" in done.stdout) == (1, True)


def _is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
