"""start_cluster("ray"): the same graphs give the same bits on a real, local Ray; what is not there is said."""

import importlib.util
import os
import subprocess
import sys

import pytest

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason='no Ray here: pip install "astrolab-research[ray]"')

SCRIPT = """
import sys
import numpy as np
import astrolab as al

spectra = al.open_spectra(sys.argv[1])
rest = al.normalize_flux(al.to_restframe(spectra, al.rest_grid(1200, 3800, 300)))
vae = al.load_model(sys.argv[2])
with al.start_cluster("ray", n_workers=2) as client:
    print(len(client.scheduler_info()["workers"]), "workers")
    there, *_ = al.score_anomalies(vae, rest, chunks_dir=sys.argv[3])
here, *_ = al.score_anomalies(vae, rest)
assert there.equals(here)
print(len(there), "ranked")
"""
JOIN = """
import dask.array as da
from astrolab.compute import start_cluster

for _ in range(2):  # leaving it does not stop it
    with start_cluster("ray") as client:
        print(len(client.scheduler_info()["workers"]), float(da.ones((10, 10)).sum().compute()))
"""
HEAD = f"""
import os, subprocess, sys
import ray

head = ray.init("local", num_cpus=2, log_to_driver=False)
environ = os.environ | {{"RAY_ADDRESS": head.address_info["gcs_address"]}}
sys.exit(subprocess.run([sys.executable, "-c", {JOIN!r}], env=environ).returncode)
"""
ASK = """
import sys
from astrolab.compute import start_cluster

try:
    start_cluster("ray", **eval(sys.argv[1]))
except (ImportError, OSError, ValueError) as error:
    sys.exit(str(error))
"""


def run(script, *arguments):
    command = [sys.executable, "-c", script, *arguments]
    for _ in range(4):
        done = subprocess.run(
            command, env=os.environ | {"RAY_ADDRESS": ""}, capture_output=True, text=True, timeout=300
        )
        # on a busy machine Ray's own processes do not start within the seconds that they give each other
        if "timed out during startup" not in done.stderr:
            break
    return done


def ask(address, **options):
    environ = os.environ | {"RAY_ADDRESS": address}
    command = [sys.executable, "-c", ASK, repr(options)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    return done.stderr


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed here")
def test_without_ray_it_is_said():
    assert ask("") == 'start_cluster(kind="ray") needs Ray: pip install "astrolab-research[ray]"\n'


@needs_ray
def test_the_same_ranking_bit_by_bit(quasars, vae, tmp_path):
    import astrolab as al

    al.save_spectra(quasars, tmp_path / "spectra.zarr", chunk_size=50)
    al.save_model(vae, tmp_path / "model")
    paths = [str(tmp_path / name) for name in ("spectra.zarr", "model", "chunks")]
    done = run(SCRIPT, *paths)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["2 workers", "300 ranked"]
    assert len(list((tmp_path / "chunks").glob("*.chunk"))) == 6


@needs_ray
def test_a_ray_that_runs_is_joined_and_left():
    done = run(HEAD)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 100.0\n2 100.0\n"


@needs_ray
def test_a_ray_that_is_not_there():
    assert ask("127.0.0.1:9").startswith("no Ray cluster answers at RAY_ADDRESS 127.0.0.1:9 within 5 s; start one")
    assert "expected host:port" in ask("nowhere")
    assert "leave n_workers out" in ask("127.0.0.1:9", n_workers=2)
