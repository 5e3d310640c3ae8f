"""Whether a run survives: ``python -m benchmarks.chaos`` (long: an instant is a run or two).

Runs rank_anomalies on simulated spectra, kills with SIGKILL a worker, the driver, the kernel or the scheduler at random
instants, resumes, and compares the products' bytes with those of a run that nobody disturbed; no chunk that was on disk
may be made again. Then damages the files of a run (flipped bits, truncations, deletions) and counts how many
``verify_run`` finds. One line an instant and a table go to stderr, figures as JSON to stdout.
"""

import argparse
import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

import astrolab as al

ASTROLAB = [sys.executable, "-c", "from astrolab.cli import main; main()"]
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
PRODUCTS = (
    *("ranking.parquet", "not_ranked.parquet", "explanations.parquet", "history.csv", "scale.safetensors"),
    *("model/weights.safetensors", "model_1/weights.safetensors"),
)
SMALL = {"n_wavelength": 200, "n_models": 2, "warm_start": "never", "n_epochs": 3, "n_top": 20, "n_explain": 2}
VICTIMS = ("worker", "driver", "kernel", "scheduler")
DAMAGES = {"bit flips": 500, "truncations": 100, "deletions": 100}


def main():
    """Print what survived as JSON; exit 1 unless all did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-instants", type=int, default=20, help="kills of each victim, at instants drawn by a seed")
    parser.add_argument("--n-objects", type=int, default=1000)
    parser.add_argument("--n-damages", type=int, default=700)
    parser.add_argument("--victims", nargs="*", choices=VICTIMS, default=VICTIMS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        al.save_spectra(al.simulate_survey(options.n_objects, seed=0), root / "spectra.zarr", chunk_size=20)
        times = _run(root, root / "undisturbed")
        truth = _products(root / "undisturbed")
        survived = {
            victim: sum(_survives(root, victim, seed, times, truth) for seed in range(options.n_instants))
            for victim in options.victims
        }
        found = _damages_found(root / "undisturbed", options.n_damages)
    figures = [(f"{victim} killed: the same products", n, options.n_instants) for victim, n in survived.items()]
    figures.append(("damages found by their file's name", found, options.n_damages))
    table = Table("what", "survived", "of")
    for what, n, of in figures:
        table.add_row(what, str(n), str(of))
    Console(stderr=True).print(table)
    print(json.dumps({what: f"{n}/{of}" for what, n, of in figures}, indent=1))
    sys.exit(any(n < of for _, n, of in figures))


def _command(root, run_dir, cluster):
    given = {"spectra_path": root / "spectra.zarr", **SMALL}
    given |= {"n_workers": 2} if cluster == "cpu" else {}
    pairs = [word for name, value in given.items() for word in ("-p", name, str(value))]
    return [*ASTROLAB, "run", "rank_anomalies", *pairs, "--cluster", cluster, "--run-dir", str(run_dir)]


def _run(root, run_dir):
    """Run undisturbed; return after how many seconds each chunk was there, and last how long all took."""
    start, times = time.monotonic(), []
    process = subprocess.Popen(_command(root, run_dir, "cpu"), **QUIET)
    while process.poll() is None:
        now = time.monotonic() - start
        times += [now] * (len(_chunks(run_dir)) - len(times))
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError("the undisturbed run failed.")
    return [*times, time.monotonic() - start]


def _wait(process, run_dir, instant, times):
    """Wait for an instant of the undisturbed run: for as many chunks, on a machine that is slower now, and then on."""
    n_chunks = sum(one <= instant for one in times)
    while len(_chunks(run_dir)) < n_chunks and process.poll() is None:
        time.sleep(0.05)
    time.sleep(instant - (times[n_chunks - 1] if n_chunks else 0))


def _survives(root, victim, seed, times, truth):
    run_dir = root / f"{victim} {seed}"
    draw = random.Random(f"{victim} {seed}")
    cluster, others = _start_cluster() if victim == "scheduler" else ("cpu", [])
    process = subprocess.Popen(_command(root, run_dir, cluster), **QUIET)
    # the folder is there once the run can be resumed
    while not (run_dir / "run.json").exists() and process.poll() is None:
        time.sleep(0.05)
    _wait(process, run_dir, draw.uniform(0, 0.9 * times[-1]), times)
    is_killed = False
    while not is_killed and process.poll() is None:  # until there is one
        is_killed = _kill(victim, process, others, draw)
        time.sleep(0.05)
    is_done = process.wait() == 0
    for other in others:
        other.kill()
        other.wait()
    kept, again = _chunks(run_dir), set()
    if not is_done:
        cluster, others = _start_cluster(cluster) if victim == "scheduler" else (None, [])
        process = subprocess.Popen([*ASTROLAB, "resume", str(run_dir)], **QUIET)
        while process.poll() is None:
            again |= {path for path, inode in _chunks(run_dir).items() if kept.get(path, inode) != inode}
            time.sleep(0.2)
        is_done = process.returncode == 0
        for other in others:
            other.kill()
            other.wait()
    what = f"{'killed' if is_killed else 'was not there'}, {len(kept)} chunks kept, {len(again)} of them made again"
    problems = _problems(run_dir, truth) if is_done else ["it did not end"]
    sys.stderr.write(f"{victim} {seed}: {what}, {'NOT the same: ' + ', '.join(problems) if problems else 'the same'}\n")
    shutil.rmtree(run_dir, ignore_errors=True)
    return not problems and not again


def _chunks(run_dir):
    """Return the chunk products that stand there now; a checkpoint of a training is always written anew."""
    found = {}
    for path in run_dir.glob("chunks/*/*.chunk"):
        with suppress(FileNotFoundError):
            found[path] = path.stat().st_ino
    return found


def _start_cluster(address=None):
    port = address.rpartition(":")[2] if address else str(_free_port())
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "dask"]
    scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"]
    worker = [*dask, "worker", address, "--nworkers", "2", "--nthreads", "1", "--no-dashboard", "--death-timeout", "20"]
    others = [subprocess.Popen(scheduler, **QUIET), subprocess.Popen(worker, **QUIET)]
    _wait_for(port)
    with al.start_cluster(address) as client:
        client.wait_for_workers(2)
    return address, others


def _wait_for(port):
    while True:
        try:
            return socket.create_connection(("127.0.0.1", int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.1)


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _kill(victim, process, others, draw):
    if victim == "scheduler":
        others[0].kill()
        return True
    if victim == "driver":
        process.kill()
        return True
    try:
        below = psutil.Process(process.pid).children(recursive=True)
        kernels = [child for child in below if "ipykernel_launcher" in " ".join(child.cmdline())]
        workers = [child for child in kernels[0].children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]
        draw.choice(kernels if victim == "kernel" else workers).kill()
    except (psutil.Error, IndexError):
        return False
    return True


def _products(run_dir):
    return {name: sha256((run_dir / name).read_bytes()).hexdigest() for name in PRODUCTS}


def _problems(run_dir, truth):
    """Return the products that have other bytes than those of the run that nobody disturbed, and what is damaged."""
    found = _products(run_dir)
    return [name for name in truth if found[name] != truth[name]] + [str(one) for one in al.verify_run(run_dir)]


def _damages_found(run_dir, n_damages):
    """Damage one file at a time, see whether it is found by its name, and mend it."""
    draw = random.Random(0)
    files = sorted(path for path in run_dir.rglob("*") if path.is_file())
    by_suffix = {}
    for path in files:
        by_suffix.setdefault(path.suffix, []).append(path)
    kinds = [kind for kind, n in DAMAGES.items() for _ in range(n)]
    found = 0
    for kind in draw.sample(kinds, n_damages):
        path = draw.choice(by_suffix[draw.choice(sorted(by_suffix))])
        content = path.read_bytes()
        _damage(path, content, kind, draw)
        name = path.relative_to(run_dir).as_posix()
        named = {problem.path for problem in al.verify_run(run_dir)}
        found += bool(named & {name, "manifest.json" if name == "manifest.sha256" else name})
        path.write_bytes(content)
    return found


def _damage(path, content, kind, draw):
    if kind == "deletions":
        path.unlink()
    elif kind == "truncations" or not content:
        path.write_bytes(content[: draw.randrange(max(len(content), 1))] if content else b"x")
    else:
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)


if __name__ == "__main__":
    main()
