"""The training loop: it learns, repeats itself exactly, and survives being stopped."""

import os

import dask.array as da
import numpy as np
import pytest
import torch

import astrolab as al
from astrolab.compute import start_cluster
from astrolab.training import split_spectra


def train(spectra, **options):
    model = al.VAE(n_wavelength=300, n_latent=4, n_hidden=32)
    history = al.fit(model, spectra, **{"n_epochs": 4, "progress": False, **options})
    return model, history


def weights_equal(one, other):
    other = other.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.state_dict().items())


def test_training_lowers_the_loss(rest_quasars):
    _, history = train(rest_quasars, n_epochs=25)
    assert history["loss_train"].iloc[-1] < 0.7 * history["loss_train"].iloc[0]
    assert list(history["epoch"]) == list(range(1, len(history) + 1))


def test_the_same_seed_gives_the_same_weights_whatever_the_chunks_and_the_order(rest_quasars, in_chunks):
    one, history = train(rest_quasars)
    other, again = train(in_chunks(rest_quasars, 37))
    shuffled, _ = train(rest_quasars.isel(object=np.random.default_rng(0).permutation(300)))
    assert weights_equal(one, other)
    assert weights_equal(one, shuffled)
    assert history.equals(again)
    different, _ = train(rest_quasars, seed=1)
    assert not weights_equal(one, different)


@pytest.mark.parametrize("stop_at", [1, 3])
def test_a_training_resumed_from_its_checkpoint_ends_the_same(rest_quasars, tmp_path, stop_at):
    whole, curve = train(rest_quasars, n_epochs=5)
    train(rest_quasars, n_epochs=stop_at, checkpoint_path=tmp_path / "training.safetensors")
    resumed, resumed_curve = train(rest_quasars, n_epochs=5, checkpoint_path=tmp_path / "training.safetensors")
    assert weights_equal(whole, resumed)
    assert curve.equals(resumed_curve)


def test_a_checkpoint_of_another_training_is_refused(rest_quasars, tmp_path):
    train(rest_quasars, n_epochs=1, checkpoint_path=tmp_path / "training.safetensors")
    with pytest.raises(ValueError, match="belongs to a training"):
        train(rest_quasars, n_epochs=2, seed=3, checkpoint_path=tmp_path / "training.safetensors")


def test_training_stops_when_validation_no_longer_improves(rest_quasars):
    _, history = train(rest_quasars, n_epochs=40, patience=2, learning_rate=0.05)
    assert len(history) < 40
    best = history["loss_valid"].idxmin()
    assert len(history) - 1 - best == 2


def test_the_test_part_is_never_read(rest_quasars):
    is_test = split_spectra(rest_quasars.targetid.values) == "test"
    assert is_test.any()
    changed = rest_quasars.flux.values.copy()
    changed[is_test] = 1e6
    dims = ("object", "wavelength_rest")
    one, _ = train(rest_quasars, n_epochs=2)
    other, _ = train(rest_quasars.assign(flux=(dims, changed)), n_epochs=2)
    assert weights_equal(one, other)


def test_n_train_bounds_what_is_loaded_and_is_a_fair_sample(rest_quasars):
    _, history = train(rest_quasars, n_train=64)
    assert np.isfinite(history.to_numpy()).all()


class _Counted:
    """Flux for dask, a chunk of which dies where it is broken; each reading is counted."""

    ndim, dtype = 2, np.dtype("float32")

    def __init__(self, values):
        self.values, self.shape, self.read = values, values.shape, []

    def __getitem__(self, key):
        self.read.append(key[0].start)
        return self.values[key]


@pytest.fixture
def counted(rest_quasars, in_chunks):
    flux = _Counted(rest_quasars.flux.values)
    lazy = da.from_array(flux, chunks=(25, -1), asarray=False, meta=np.empty((0, 0), "float32"))
    return in_chunks(rest_quasars, 25).assign(flux=(("object", "wavelength_rest"), lazy, rest_quasars.flux.attrs)), flux


def test_one_pass_over_the_survey_serves_several_trainings(rest_quasars, counted):
    lazy, flux = counted
    training = al.load_training(lazy, n_train=40, seeds=[3, 4])
    assert sorted(flux.read) == list(range(0, 300, 25))
    assert 40 < training.sizes["object"] <= 90
    for seed in (3, 4):
        whole, curve = train(rest_quasars, n_train=40, seed=seed)
        part, again = train(training, n_train=40, seed=seed)
        assert weights_equal(whole, part)
        assert curve.equals(again)
    assert sorted(flux.read) == list(range(0, 300, 25))


def test_chunks_that_nothing_is_learned_from_are_not_read(rest_quasars, counted):
    lazy, flux = counted
    training = al.load_training(lazy, n_train=3, seeds=[0])
    rows = np.flatnonzero(np.isin(rest_quasars.targetid.values, training.targetid.values))
    assert len(rows) == 4
    assert sorted(flux.read) == sorted(set(25 * (rows // 25)))
    np.testing.assert_array_equal(training.flux, rest_quasars.flux[rows])
    np.testing.assert_array_equal(training.ivar, rest_quasars.ivar[rows])
    assert training.attrs == rest_quasars.attrs


def test_a_chunk_that_kills_its_workers_teaches_nothing(rest_quasars, in_chunks):
    lazy = in_chunks(rest_quasars, 25)
    killer = rest_quasars.targetid.values[60]

    def die(flux, targetid):
        if killer in targetid:
            os._exit(9)
        return flux

    targetid = da.from_array(rest_quasars.targetid.values[:, None], chunks=(25, 1))
    flux = da.map_blocks(
        die, lazy.flux.data, targetid, chunks=lazy.flux.data.chunks, dtype="float32", meta=lazy.flux.data
    )
    with start_cluster("cpu", n_workers=2):
        one, history = train(lazy.assign(flux=(lazy.flux.dims, flux, lazy.flux.attrs)))
    assert np.isfinite(history.to_numpy()).all()
    other, _ = train(rest_quasars.isel(object=np.arange(300) // 25 != 2))
    assert weights_equal(one, other)


def test_the_split_is_a_hash_of_the_identifier():
    targetid = np.arange(100_000) + 39_633_559_463_397_000
    part = split_spectra(targetid)
    shares = {name: np.mean(part == name) for name in ("train", "valid", "test")}
    assert shares == pytest.approx({"train": 0.8, "valid": 0.1, "test": 0.1}, abs=0.005)
    order = np.random.default_rng(0).permutation(len(targetid))
    assert (split_spectra(targetid[order]) == part[order]).all()


def test_nothing_to_train_on_is_said(rest_quasars):
    blind = rest_quasars.assign(ivar=rest_quasars.ivar * 0)
    with pytest.raises(ValueError, match="0 of 300 objects can be trained on"):
        train(blind)


def test_spectra_that_are_no_numbers_are_left_out_of_training(rest_quasars):
    is_broken = split_spectra(rest_quasars.targetid.values) == "train"
    is_broken[np.flatnonzero(is_broken)[3:]] = False
    broken = rest_quasars.copy(deep=True)
    broken.ivar.values[is_broken, 150] = 1.0
    broken.flux.values[is_broken, 150] = [np.nan, np.inf, -np.inf]
    one, history = train(broken, n_epochs=2)
    assert np.isfinite(history.to_numpy()).all()
    other, _ = train(rest_quasars.isel(object=~is_broken), n_epochs=2)
    assert weights_equal(one, other)


def test_spectra_off_the_models_grid_are_refused(rest_quasars):
    with pytest.raises(al.SchemaError, match="the spectra have 299 pixels, the model expects 300"):
        train(rest_quasars.isel(wavelength_rest=slice(299)))


def test_a_batch_of_nothing_is_refused(rest_quasars):
    with pytest.raises(ValueError, match="batch_size is 0, expected at least 1"):
        train(rest_quasars, batch_size=0)


def test_a_gpu_that_is_not_there_is_said(rest_quasars):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ValueError, match="torch sees no GPU here"):
        train(rest_quasars, device="cuda")
    with pytest.raises(ValueError, match="device is 'tpu', expected one of: auto, cpu, cuda"):
        train(rest_quasars, device="tpu")
    with pytest.raises(ValueError, match="torch sees no GPU here"):
        al.classify_spectra(al.simulate_survey(1, seed=0), device="cuda")
