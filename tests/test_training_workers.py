"""Training over several Dask workers: the curve of one process, checkpoints, and what cannot be had is said."""

import os
import signal
import threading
import time

import numpy as np
import pytest

import astrolab as al
from astrolab.compute import start_cluster


@pytest.fixture(scope="module")
def cluster():
    with start_cluster("cpu", n_workers=2) as client:
        yield client


def train(spectra, **options):
    model = al.VAE(n_wavelength=300, n_latent=4, n_hidden=32)
    history = al.fit(model, spectra, **{"n_epochs": 4, "progress": False, **options})
    return model, history


def assert_alike(one, other):
    for name, tensor in one.state_dict().items():
        np.testing.assert_allclose(tensor, other.state_dict()[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_without_a_cluster_it_is_said(rest_quasars):
    with pytest.raises(ValueError, match=r"2 Dask workers are to train together, but there is none; start_cluster\(\)"):
        train(rest_quasars, n_workers=2)
    with pytest.raises(ValueError, match="n_workers is 0, expected at least 1"):
        train(rest_quasars, n_workers=0)


def test_two_workers_give_the_curve_of_one_and_go_on_from_its_checkpoint(
    cluster, rest_quasars, in_chunks, tmp_path, capsys
):
    alone, curve = train(rest_quasars)
    together, again = train(in_chunks(rest_quasars, 64), n_workers=2, progress=True)
    assert "loss=" in capsys.readouterr().err
    np.testing.assert_allclose(again, curve, rtol=1e-5)
    assert_alike(together, alone)
    with pytest.raises(ValueError, match="3 Dask workers are to train together, but the cluster has 2"):
        train(rest_quasars, n_workers=3)

    path = tmp_path / "new" / "training.chunk"
    for n_workers, n_epochs in ((1, 1), (2, 3), (1, 4)):
        resumed, again = train(rest_quasars, n_workers=n_workers, n_epochs=n_epochs, checkpoint_path=path)
    np.testing.assert_allclose(again, curve, rtol=1e-5)
    assert_alike(resumed, alone)


def test_a_worker_killed_while_it_trains_is_said_and_the_training_goes_on(cluster, rest_quasars, tmp_path):
    path = tmp_path / "training.chunk"
    pids = list(cluster.run(os.getpid).values())

    def kill():
        while not path.exists():
            time.sleep(0.01)
        os.kill(pids[1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    endless = {"n_epochs": 100_000, "patience": 100_000, "checkpoint_path": path}
    with pytest.raises(ConnectionError, match=r"went away while workers trained together.*run the same again"):
        train(rest_quasars, n_workers=2, **endless)
    killer.join()
    cluster.wait_for_workers(2, timeout=120)
    n_epochs = 2 + int(
        al.fit(al.VAE(300, n_latent=4, n_hidden=32), rest_quasars, n_epochs=0, checkpoint_path=path).epoch.max()
    )
    _, curve = train(rest_quasars, n_workers=2, n_epochs=n_epochs, patience=100_000, checkpoint_path=path)
    assert list(curve["epoch"]) == list(range(1, n_epochs + 1))
