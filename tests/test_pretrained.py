"""The model that ships: it is whole, a better start than none, and refused where it does not fit."""

import numpy as np
import pytest

import astrolab as al
from astrolab.models.files import read_card
from astrolab.models.pretrained import _SHIPPED, COLD_LEARNING_RATE
from astrolab.pretraining import pretrain_vae
from astrolab.simulation.templates import read_templates

GRID = al.rest_grid(1000.0, 7500.0, 1500)


def test_the_shipped_model_says_what_it_is():
    card = read_card(_SHIPPED)
    assert {"trained_on", "n_objects", "limits", "use", "loss_valid", "seeds"} <= set(card)
    np.testing.assert_allclose(card["wavelength_rest"], GRID)


def test_a_warm_start_knows_more_of_quasars_than_a_cold_one(quasars):
    rest = al.normalize_flux(al.to_restframe(quasars.isel(object=slice(0, 120)), GRID))
    losses = {}
    for warm_start in ("always", "never"):
        (model,), learning_rate, is_warm = al.start_vaes(GRID, warm_start=warm_start)
        assert is_warm == (warm_start == "always")
        history = al.fit(model, rest, n_epochs=4, learning_rate=learning_rate, progress=False)
        losses[warm_start] = history["loss_valid"].min()
    assert losses["always"] < losses["never"]


def test_another_grid_starts_from_nothing_or_is_refused():
    grid = al.rest_grid(1216, 2900, 100)
    models, learning_rate, is_warm = al.start_vaes(grid, n_models=2, n_latent=4)
    assert (len(models), learning_rate, is_warm) == (2, COLD_LEARNING_RATE, False)
    assert not np.allclose(*(model.state_dict()["decoder.4.weight"] for model in models))
    with pytest.raises(ValueError, match="warm_start='never'"):
        al.start_vaes(grid, warm_start="always")
    with pytest.raises(ValueError, match="expected one of: auto, always, never"):
        al.start_vaes(grid, warm_start="yes")
    with pytest.raises(ValueError, match="n_models is 0, expected at least 1"):
        al.start_vaes(grid, n_models=0)


def test_a_flipped_bit_in_the_weights_is_found(tmp_path):
    folder = al.save_model(al.VAE(n_wavelength=64), tmp_path / "model")
    weights = bytearray((folder / "weights.safetensors").read_bytes())
    weights[-100] ^= 1
    (folder / "weights.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match="sha256"):
        al.load_model(folder)


def test_the_model_can_be_made_again_in_small(real_data):
    folder = real_data / "redrock-templates"
    assert len(read_templates(str(folder)))
    model, card = pretrain_vae(folder, n_fibres=40, seeds=(1, 2), n_epochs=1, grid=(1000, 7500, 100), progress=False)
    assert model.config["n_wavelength"] == 100
    assert card["n_objects"] > 50
