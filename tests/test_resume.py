"""A run whose processes are killed is shown as killed, goes on in its folder, and ends as if nothing had happened."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from astrolab.runs import ResumeError, find_template, resume_run, run_status, run_template, verify_run
from astrolab.runs.driver import RunningError
from astrolab.settings import settings
from astrolab.stores.publish import write_whole

ASTROLAB = [sys.executable, "-c", "from astrolab.cli import main; main()"]
HERE = str(Path(__file__).parent)
N_CHUNKS = 12
CODE = f"""
import dask.array as da, pandas as pd
import astrolab as al
from astrolab.stores.passes import map_chunks
from slow_rows import rows, slow_rows

with al.start_cluster(cluster, n_workers=n_workers) as client:
    array = da.from_array(rows({N_CHUNKS}), chunks=(8, -1))
    options = {{"seconds": 0, "log_path": f"{{place}}/log", "limit_path": f"{{place}}/limit"}}
    values = map_chunks(slow_rows, array, n_columns=2, chunks_dir="chunks/rows", **options)
al.save_table(pd.DataFrame(values, columns=["a", "b"]), "product.parquet")
"""
PARAMETERS = """
seed: int = 0  # seed
cluster: str = "cpu"  # where
n_workers: int | None = 1  # workers
place: str = ""  # folder of the log, a line for each chunk that was computed, and of its limit
"""


def write_template(folder, code, parameters=PARAMETERS):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Slow\n\n## Work")])
    notebook.cells += [nbformat.v4.new_code_cell(parameters.strip(), metadata={"tags": ["parameters"]})]
    notebook.cells += [nbformat.v4.new_code_cell(code.strip())]
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / "slow.ipynb")


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """A template that computes as many chunks as it is let; the folder of its log."""
    monkeypatch.setenv("ASTROLAB_TEMPLATES_DIR", str(tmp_path / "templates"))
    monkeypatch.setenv("PYTHONPATH", HERE, prepend=os.pathsep)
    settings.cache_clear()
    write_template(tmp_path / "templates", CODE)
    (tmp_path / "log").touch()
    # a path of its own, and short enough for the sockets of kernels
    with tempfile.TemporaryDirectory(prefix="a") as own:
        monkeypatch.setenv("TMPDIR", own)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield tmp_path


def let(slow, n_chunks):
    write_whole(slow / "limit", str(n_chunks).encode())


def start(*arguments):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*ASTROLAB, *map(str, arguments)], **pipes)


def wait_for(condition, process, seconds=180):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def n_computed(slow):
    return len((slow / "log").read_text().splitlines())


def n_done(run_dir):
    return len(list((run_dir / "chunks" / "rows").glob("*.chunk")))


def assert_undisturbed(run_dir, tmp_path):
    """The product of a run that nobody disturbed, computed here without any of this."""
    import pandas as pd

    plain = runpy.run_path(f"{HERE}/slow_rows.py")
    truth = plain["slow_rows"](plain["rows"](N_CHUNKS), 0, tmp_path / "truth")
    product = pd.read_parquet(run_dir / "product.parquet")
    assert product.to_numpy().tobytes() == truth.tobytes()
    assert sorted(path.name for path in run_dir.iterdir()) == [
        "manifest.json", "manifest.sha256", "parameters.json", "product.parquet", "ro-crate-metadata.json", "run.json",
        "slow.html", "slow.ipynb",
    ]  # fmt: skip
    assert verify_run(run_dir) == []


def status_of(run_dir):
    said = subprocess.run([*ASTROLAB, "status", str(run_dir), "--json"], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


def test_driver_and_kernel_killed(slow, tmp_path, capsys):
    run_dir = tmp_path / "a run"

    # the driver
    let(slow, 4)
    process = start("run", "slow", "-p", "place", slow, "--run-dir", run_dir)
    wait_for(lambda: n_done(run_dir) == 4, process)
    told = run_status(run_dir)
    assert (told.state, told.n_done, told.n_total, told.is_resumable) == ("running", 4, N_CHUNKS, False)
    with pytest.raises(RunningError, match=f"another process drives the run .* \\(process {process.pid} on"):
        resume_run(run_dir)
    process.kill()
    process.communicate()
    killed = run_status(run_dir)
    assert (killed.state, killed.n_done, killed.is_resumable) == ("killed", 4, True)
    assert [problem.path for problem in verify_run(run_dir)] == ["manifest.json"]
    assert status_of(run_dir)["state"] == "killed"
    shown = subprocess.run([*ASTROLAB, "status", str(run_dir)], capture_output=True, text=True).stdout
    assert f"killed: astrolab resume '{run_dir}'" in shown
    _wait_until_alone(run_dir)

    (left,) = Path(tempfile.gettempdir()).glob("astrolab-kernel-*")

    # the kernel
    let(slow, 8)
    process = start("resume", run_dir)
    wait_for(lambda: n_done(run_dir) == 8, process)
    assert not left.exists()  # nobody holds it, so whoever starts a kernel next takes it away
    (kernel,) = [child for child in psutil.Process(process.pid).children() if "ipykernel" in " ".join(child.cmdline())]
    kernel.kill()
    _, said = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "the kernel died" in said
    assert f"To go on from there: astrolab resume '{run_dir}'" in said
    assert run_status(run_dir).state == "failed"
    assert verify_run(run_dir) == []
    _wait_until_alone(run_dir)

    # a damaged chunk is found, named, and made again
    chunk = sorted((run_dir / "chunks" / "rows").iterdir())[0]
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    assert [problem.path for problem in verify_run(run_dir)] == [str(chunk.relative_to(run_dir))]
    assert run_status(run_dir).n_failed == 1

    # the end
    let(slow, 2 * N_CHUNKS)
    resume_run(run_dir, progress=False)
    assert f"{chunk.relative_to(run_dir)} is damaged and is made again" in capsys.readouterr().err
    assert_undisturbed(run_dir, tmp_path)
    assert run_status(run_dir).state == "finished"
    assert n_computed(slow) == N_CHUNKS + 1  # each once, and the damaged one again
    with pytest.raises(ResumeError, match="is finished"):
        resume_run(run_dir)


def _wait_until_alone(run_dir):
    """Workers of a killed driver end by themselves; until then they may finish what they had begun."""
    end = time.monotonic() + 60
    while any(_is_here(process, run_dir) for process in psutil.process_iter()):
        assert time.monotonic() < end
        time.sleep(0.2)


def _is_here(process, run_dir):
    try:
        return process.pid != os.getpid() and process.cwd() == str(run_dir)
    except (psutil.Error, OSError):
        return False


def test_a_scheduler_that_goes_away(slow, tmp_path):
    dask = [sys.executable, "-m", "dask"]
    port_path = tmp_path / "scheduler.json"

    def start_scheduler():
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
        port_path.unlink(missing_ok=True)
        arguments = ["--port", "0", "--no-dashboard", "--scheduler-file", str(port_path)]
        scheduler = subprocess.Popen([*dask, "scheduler", *arguments], **quiet)
        wait_for(lambda: port_path.exists() and port_path.stat().st_size, scheduler)
        address = json.loads(port_path.read_text())["address"]
        worker = [address, "--nthreads", "1", "--no-dashboard", "--death-timeout", "30"]
        return address, scheduler, subprocess.Popen([*dask, "worker", *worker], **quiet)

    run_dir = tmp_path / "run"
    address, scheduler, worker = start_scheduler()
    try:
        let(slow, 3)
        given = ["-p", "place", slow, "-p", "n_workers", "None", "--cluster", address]
        process = start("run", "slow", *given, "--run-dir", run_dir)
        wait_for(lambda: n_done(run_dir) == 3, process)
        scheduler.kill()
        _, said = process.communicate(timeout=180)
    finally:
        for child in (scheduler, worker):
            child.kill()
            child.wait()
    assert process.returncode == 1, said
    assert "the Dask scheduler went away" in said, said[-1500:]
    assert f"astrolab resume {run_dir}" in said
    status = run_status(run_dir)
    assert (status.state, status.n_done, status.n_failed) == ("failed", 3, 0)


def test_a_cluster_that_nobody_answers_for_ends_the_run_before_its_work(slow, tmp_path):
    nobody = {"cluster": "tcp://127.0.0.1:9", "n_workers": None, "place": str(slow)}
    with pytest.raises(ConnectionError, match=r"^no Dask scheduler answers at tcp://127.0.0.1:9") as caught:
        run_template("slow", run_dir=tmp_path / "run", progress=False, **nobody)
    assert "\n" not in str(caught.value)
    assert n_computed(slow) == 0
    assert not (tmp_path / "run").exists()


def test_what_is_not_the_same_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ASTROLAB_TEMPLATES_DIR", str(tmp_path / "templates"))
    settings.cache_clear()
    parameters = 'seed: int = 0  # seed\nflag_path: str = "x"  # an input\n'
    (tmp_path / "flag").write_text("1")
    failing = "open('made.txt', 'w').close()\nraise ValueError(open(flag_path).read())"
    write_template(tmp_path / "templates", failing, parameters)
    run_dir = tmp_path / "run"
    with pytest.raises(RuntimeError, match="To go on from there: astrolab resume"):
        run_template("slow", run_dir=run_dir, flag_path=tmp_path / "flag", progress=False)

    def refused(match):
        with pytest.raises(ResumeError, match=match) as caught:
            resume_run(run_dir, progress=False)
        assert "\n" not in str(caught.value)
        assert (run_dir / "made.txt").exists()

    (tmp_path / "flag").write_text("2")
    refused("an input is not what it was")
    (tmp_path / "flag").write_text("1")
    parameters_path, record_path = run_dir / "parameters.json", run_dir / "run.json"
    stored = parameters_path.read_text()
    parameters_path.write_text(stored.replace('"seed": 0', '"seed": 1'))
    refused(r"parameters\.json is not what it was")
    parameters_path.write_text("{")
    refused("missing or damaged")
    parameters_path.write_text(stored)
    record = json.loads(record_path.read_text())
    record_path.write_text(json.dumps(record | {"code": record["code"] | {"sha256": "0" * 64}}))
    refused("the code of AstroLab is not what it was")
    record_path.write_text(json.dumps(record))
    write_template(tmp_path / "templates", failing + "\npass", parameters)
    refused("the template is not what it was")
    assert find_template("slow")
    shutil.copytree(run_dir, tmp_path / "copy")
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        run_status(tmp_path)
    assert run_status(tmp_path / "copy").state == "failed"
