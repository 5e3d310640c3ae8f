"""Several models at the same time: the weights of one thread anywhere, whoever dies; nothing goes on unasked."""

import _thread
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from distributed import Client

import astrolab as al
from astrolab.compute import start_cluster


@pytest.fixture(scope="module")
def cluster():
    with start_cluster("cpu", n_workers=2) as client:
        yield client


def train(spectra, n_models=3, **options):
    models = [al.VAE(n_wavelength=300, n_latent=4, n_hidden=32, seed=seed) for seed in range(n_models)]
    return models, al.fit_models(models, spectra, **{"n_epochs": 4, "n_train": 100, "progress": False, **options})


@pytest.fixture(scope="module")
def alone(rest_quasars):
    """Each model trained by `fit`, with one thread."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    models = [al.VAE(n_wavelength=300, n_latent=4, n_hidden=32, seed=seed) for seed in range(3)]
    curves = [
        al.fit(model, rest_quasars, n_epochs=4, n_train=100, seed=seed, progress=False)
        for seed, model in enumerate(models)
    ]
    torch.set_num_threads(n_threads)
    return models, curves


def assert_same(one, other):
    for model, again in zip(one[0], other[0], strict=True):
        weights = again.state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
        assert not again.training
    assert all(curve.equals(again) for curve, again in zip(one[1], other[1], strict=True))


def test_without_a_cluster_they_are_trained_here(rest_quasars, alone, capsys):
    assert_same(alone, train(rest_quasars, progress=True))
    assert "training 3 models: 100%" in capsys.readouterr().err


def test_workers_train_one_each_to_the_same_weights(cluster, rest_quasars, in_chunks, alone, tmp_path, capsys):
    assert_same(alone, train(in_chunks(rest_quasars, 64), progress=True, checkpoint_dir=tmp_path / "new"))
    assert "training 3 models: 100%" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [f"training_{i}.chunk" for i in range(3)]
    assert_same(alone, train(rest_quasars, checkpoint_dir=tmp_path / "new"))  # finished; nothing is left to do


def test_several_workers_may_train_each_together(cluster, rest_quasars, alone):
    _, curves = train(rest_quasars, n_workers=2)
    for curve, again in zip(alone[1], curves, strict=True):
        np.testing.assert_allclose(again, curve, rtol=1e-5)


def test_a_model_whose_worker_is_killed_is_trained_on_by_another(cluster, rest_quasars, tmp_path):
    options = {"n_models": 2, "n_epochs": 150, "patience": 150, "n_train": 200}
    whole = train(rest_quasars, **options)
    pids = list(cluster.run(os.getpid).values())

    def kill():
        while len(list(tmp_path.glob("*.chunk"))) < 2:
            time.sleep(0.01)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert_same(whole, train(rest_quasars, checkpoint_dir=tmp_path, **options))
    killer.join()
    assert not set(pids) & set(cluster.run(os.getpid).values())


def test_a_scheduler_that_goes_away_is_said(rest_quasars, tmp_path):
    dask, quiet = [sys.executable, "-m", "dask"], {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    found = tmp_path / "scheduler.json"
    options = ["--port", "0", "--no-dashboard", "--scheduler-file", str(found)]
    scheduler = subprocess.Popen([*dask, "scheduler", *options], cwd=tmp_path, **quiet)
    while not (found.exists() and found.stat().st_size):
        time.sleep(0.1)
    address = json.loads(found.read_text())["address"]
    worker = subprocess.Popen([*dask, "worker", address, "--nthreads", "1", "--no-dashboard"], cwd=tmp_path, **quiet)

    def kill():
        while not list(tmp_path.glob("*.chunk")):
            time.sleep(0.01)
        scheduler.kill()

    killer = threading.Thread(target=kill)
    try:
        with start_cluster(address) as client:
            client.wait_for_workers(1, timeout=60)
            killer.start()
            with pytest.raises(ConnectionError, match=r"^the Dask scheduler went away.*run the same again"):
                train(rest_quasars, n_epochs=1_000_000, patience=1_000_000, checkpoint_dir=tmp_path)
    finally:
        for child in (scheduler, worker):
            child.kill()
            child.wait()
    assert (tmp_path / "training_0.chunk").exists()


def test_an_interrupt_or_an_error_stops_them_all(cluster, rest_quasars):
    cluster.wait_for_workers(2, timeout=60)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    try:
        threading.Timer(3, _thread.interrupt_main).start()
        with pytest.raises(KeyboardInterrupt):
            train(rest_quasars, n_epochs=1_000_000, patience=1_000_000)
    finally:
        signal.signal(signal.SIGINT, before)
    # workers that still trained would not answer
    assert cluster.gather([cluster.submit(os.getpid, workers=[w], pure=False) for w in cluster.nthreads()])
    with pytest.raises(ValueError, match=r"0 of \d+ objects can be trained on"):
        train(rest_quasars.assign(ivar=rest_quasars.ivar * 0))


def test_workers_that_share_a_process_do_not_train(rest_quasars, alone):
    with Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0"):
        assert_same(alone, train(rest_quasars))


def test_as_many_seeds_as_models_are_expected(rest_quasars):
    with pytest.raises(ValueError, match="there are 2 seeds for 3 models, expected one each"):
        train(rest_quasars, seeds=[0, 1])


def test_what_cannot_be_trained_is_said_before_the_survey_is_read(rest_quasars, monkeypatch):
    monkeypatch.setattr("astrolab.training.ensemble.load_training", None)
    with pytest.raises(al.SchemaError, match="the spectra have 299 pixels, the model expects 300"):
        train(rest_quasars.isel(wavelength_rest=slice(299)))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="n_workers is 0, expected at least 1"):
        train(rest_quasars, n_workers=0)
