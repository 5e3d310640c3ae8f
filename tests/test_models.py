"""The contract of a model, over all models, and of the files they are saved in."""

import json

import numpy as np
import pytest
import torch

import astrolab as al
from astrolab.models.files import ModelFileError

MODELS = {"VAE": lambda: al.VAE(n_wavelength=60, n_latent=3, n_hidden=16, seed=5)}

pytestmark = pytest.mark.parametrize("name", MODELS)


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(0)
    flux = 1 + 0.3 * torch.randn(11, 60, generator=rng)
    ivar = 10 * torch.rand(11, 60, generator=rng)
    ivar[:, 20:25] = 0
    ivar[4] = 0  # nothing was measured
    return flux, ivar


def test_shapes(name, batch):
    model = MODELS[name]().eval()
    out = model(*batch)
    assert out.flux_model.shape == out.ivar_model.shape == (11, 60)
    assert model.loss(*batch).shape == (11,)
    assert model.encode(*batch).shape == (11, model.config["n_latent"])
    assert torch.isfinite(model.loss(*batch)).all()


def test_masked_pixels_do_not_matter(name, batch):
    model = MODELS[name]().eval()
    flux, ivar = batch
    for nonsense in (1e9, float("nan"), float("inf")):
        changed = torch.where(ivar > 0, flux, nonsense)
        torch.testing.assert_close(model(changed, ivar).flux_model, model(flux, ivar).flux_model, rtol=0, atol=0)
        torch.testing.assert_close(model.loss(changed, ivar), model.loss(flux, ivar), rtol=0, atol=0)
        torch.testing.assert_close(model.encode(changed, ivar), model.encode(flux, ivar), rtol=0, atol=0)


@pytest.mark.parametrize("nonsense", [0.0, float("nan")])
def test_without_gradients_the_answer_is_the_same(name, batch, nonsense):
    model = MODELS[name]().eval()
    flux, ivar = batch
    flux[3, 40], flux[5, 41], ivar[6] = 1e4, -1e4, 1e4  # cosmic rays, and next to no noise
    flux = torch.where(ivar > 0, flux, nonsense)
    truth = model(flux, ivar)
    with torch.no_grad():
        fast = model(flux, ivar)
        of_columns = model(flux.T.contiguous().T, ivar.T.contiguous().T)
    for part, other, one in zip(truth, fast, of_columns, strict=True):
        torch.testing.assert_close(other, part.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one, other)


def test_one_bad_spectrum_does_not_spoil_its_batch(name, batch):
    model = MODELS[name]().eval()
    flux, ivar = batch
    broken = flux.clone()
    broken[2] = 1e30
    others = torch.arange(11) != 2
    torch.testing.assert_close(model.loss(broken, ivar)[others], model.loss(flux, ivar)[others], rtol=0, atol=0)


def test_gradients_are_finite(name, batch):
    model = MODELS[name]().train()
    model.loss(*batch).mean().backward()
    assert all(torch.isfinite(weights.grad).all() for weights in model.parameters())


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("n_wavelength", [60, 61, 7])
def test_the_loss_and_its_gradient_are_those_of_plain_torch_in_64_bits(name, is_training, n_wavelength):
    model = type(MODELS[name]())(**MODELS[name]().config | {"n_wavelength": n_wavelength}).train(is_training)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.1 * torch.randn(weights.shape, generator=rng)
    flux = 1 + 0.3 * torch.randn(11, n_wavelength, generator=rng)
    ivar = 10 ** (6 * torch.rand(11, n_wavelength, generator=rng) - 3)
    ivar[torch.rand(ivar.shape, generator=rng) < 0.2] = 0
    ivar[4] = 0  # nothing was measured
    flux[3, 5], flux[5, 4], ivar[6] = 1e4, -1e4, 1e4  # cosmic rays, and next to no noise
    flux = torch.where(ivar > 0, flux, float("nan"))
    counts = torch.rand(11, generator=rng)

    def differentiate(model, flux, ivar, counts):
        torch.manual_seed(2)  # of the draws of the latent vectors
        nats = model.loss(flux, ivar)
        (nats * counts).sum().backward()
        return nats.detach(), {name: weights.grad for name, weights in model.named_parameters()}

    torch.set_default_dtype(torch.float64)
    try:
        exact = type(model)(**model.config).train(is_training)
    finally:
        torch.set_default_dtype(torch.float32)
    exact.load_state_dict(model.state_dict())
    draw = exact._draw
    exact._draw = lambda mean, logvar: draw(mean.float(), logvar.float()).double()  # the same draws
    nats, gradients = differentiate(model, flux, ivar, counts)
    exact_nats, exact_gradients = differentiate(exact, flux.double(), ivar.double(), counts.double())
    torch.testing.assert_close(nats, exact_nats.float(), rtol=1e-5, atol=1e-5)
    for part, truth in exact_gradients.items():
        assert torch.isfinite(truth).all()
        assert torch.linalg.norm(gradients[part] - truth) < 1e-5 * torch.linalg.norm(truth)
    first = gradients["scatter"].clone()
    of_columns, again = differentiate(model, flux.T.contiguous().T, ivar.T.contiguous().T, counts)
    torch.testing.assert_close(of_columns, nats, rtol=0, atol=0)
    # gradients add up over calls
    torch.testing.assert_close(again["scatter"], 2 * first, rtol=1e-6, atol=0)


def test_the_loss_can_be_asked_for_the_gradient_of_the_flux_and_in_16_bits(name, batch):
    model = MODELS[name]().eval()
    flux, ivar = batch
    plain = flux.clone().requires_grad_()
    of_plain = model.loss(plain, ivar)
    of_plain.sum().backward()
    assert (plain.grad != 0).any(dim=1).sum() == 10  # all but the one that was not measured
    torch.testing.assert_close(of_plain, model.loss(flux, ivar), rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model.loss(flux, ivar).float(), of_plain, rtol=0.05, atol=0.5)


def test_a_class_that_decodes_in_its_own_way_is_trained_and_asked_in_that_way(name, batch):
    class Twice(type(MODELS[name]())):
        def decode(self, latent):
            return super().decode(2 * latent)

    model, twice = MODELS[name]().eval(), Twice(**MODELS[name]().config).eval()
    flux, ivar = (rows[:4] for rows in batch)
    with torch.no_grad():
        plain, own = model(flux, ivar), twice(flux, ivar)
        expected = model.decode(2 * plain.latent_mean)
        nats = twice.loss(flux, ivar)
    assert (own.flux_model - plain.flux_model).abs().max() > 1e-4
    torch.testing.assert_close(own.flux_model / own.flux_model[:, :1], expected / expected[:, :1])
    assert (nats - model.loss(flux, ivar)).abs().max() > 1e-4
    torch.testing.assert_close(nats, twice.double().loss(flux.double(), ivar.double()).float())


def test_the_seed_decides_the_weights(name):
    one, other = MODELS[name]().state_dict(), MODELS[name]().state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_saved_model_comes_back_the_same(name, batch, tmp_path):
    model = MODELS[name]().eval()
    al.save_model(model, tmp_path / "model", note="a test")
    again = al.load_model(tmp_path / "model")
    assert type(again) is type(model)
    assert torch.equal(again(*batch).flux_model, model(*batch).flux_model)
    assert json.loads((tmp_path / "model" / "model.json").read_text())["card"] == {"note": "a test"}


def _lose_weights(folder):
    (folder / "weights.safetensors").unlink()


def _truncate(folder):
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])


def _rename_model(folder):
    described = json.loads((folder / "model.json").read_text()) | {"model": "os.system"}
    (folder / "model.json").write_text(json.dumps(described))


def _change_architecture(folder):
    described = json.loads((folder / "model.json").read_text())
    described["config"]["n_wavelength"] = 61
    (folder / "model.json").write_text(json.dumps(described))


def _garble_json(folder):
    (folder / "model.json").write_text("{")


def _spoil_weights(folder):
    model = al.load_model(folder)
    with torch.no_grad():
        next(model.parameters()).fill_(np.nan)
    al.save_model(model, folder)


@pytest.mark.parametrize(
    "damage", [_lose_weights, _truncate, _rename_model, _change_architecture, _garble_json, _spoil_weights]
)
def test_a_damaged_model_is_refused_with_a_sentence(name, tmp_path, damage):
    folder = al.save_model(MODELS[name](), tmp_path / "model")
    damage(folder)
    with pytest.raises(ModelFileError, match=r"missing|damaged|expected one of|do not fit|not finite"):
        al.load_model(folder)
