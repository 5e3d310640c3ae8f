"""The network of classes and redshifts: masks, shifts, files; and the weights that are shipped, on spectra."""

import numpy as np
import pytest
import torch

import astrolab as al
from astrolab.models.classifier import GALAXY, NOTHING, QSO, STAR


@pytest.fixture(scope="module")
def small():
    return al.SpectrumClassifier(n_wavelength=160, n_redshift=30, n_feature=6, n_pattern=5, n_hidden=8, seed=3).eval()


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(0)
    flux = 1 + 0.3 * torch.randn(9, 160, generator=rng)
    ivar = 10 * torch.rand(9, 160, generator=rng)
    ivar[:, 40:55] = 0
    ivar[4] = 0  # nothing was measured
    return flux, ivar


def test_probabilities_are_one_in_all(small, batch):
    out = small(*batch)
    assert out.log_probability.shape == (9, 62)
    assert out.offset.shape == (9, 60)
    torch.testing.assert_close(out.log_probability.exp().sum(dim=1), torch.ones(9))


@pytest.mark.parametrize("nonsense", [1e9, float("nan"), float("inf")])
def test_masked_pixels_do_not_matter(small, batch, nonsense):
    flux, ivar = batch
    for one, other in zip(small(torch.where(ivar > 0, flux, nonsense), ivar), small(flux, ivar), strict=True):
        assert torch.isfinite(one).all()
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_one_bad_spectrum_does_not_spoil_its_batch(small, batch):
    flux, ivar = batch
    broken = flux.clone()
    broken[2] = 1e30
    others = torch.arange(9) != 2
    for one, other in zip(small(broken, ivar), small(flux, ivar), strict=True):
        torch.testing.assert_close(one[others], other[others], rtol=0, atol=0)


def test_brightness_does_not_matter(small, batch):
    flux, ivar = batch
    torch.testing.assert_close(small(7 * flux, ivar / 49).log_probability, small(flux, ivar).log_probability)


def test_correlation_is_its_slow_truth(small):
    features = torch.randn(2, 6, 20, generator=torch.Generator().manual_seed(1))
    found = small._correlated(features)
    for k in (0, 13, 29):
        own = small.patterns[:, :, 29 - k : 49 - k]  # the larger the redshift, the bluer the rest wavelengths
        torch.testing.assert_close(found[:, :, k], torch.einsum("ocn,pcn->op", features, own), rtol=1e-4, atol=1e-5)


def test_loss_and_gradients(small, batch):
    label = torch.tensor([QSO, GALAXY, STAR, NOTHING, QSO, QSO, GALAXY, STAR, QSO])
    place = torch.tensor([3.2, 29.0, 0.0, 0.0, 28.7, 0.0, 11.5, 0.0, 17.0])
    is_bal = torch.tensor([1.0, 0.0, *[float("nan")] * 6, 1.0])
    model = al.SpectrumClassifier(**small.config).train()
    loss = model.loss(*batch, label, place, is_bal)
    assert loss.shape == (9,)
    loss.mean().backward()
    assert all(torch.isfinite(weights.grad).all() for weights in model.parameters())


def test_a_saved_network_comes_back_the_same(small, batch, tmp_path):
    small.temperature.fill_(1.5)
    again = al.load_model(al.save_model(small, tmp_path / "model"))
    torch.testing.assert_close(again(*batch).log_probability, small(*batch).log_probability, rtol=0, atol=0)


def test_it_learns_a_line_at_every_redshift():
    """A line of two peaks at shifts that were not seen: what was learned at one redshift holds at others."""
    rng = np.random.default_rng(0)
    pixel = np.arange(160)

    def spectra(place):
        centre = 30 + 8 * place[:, None]
        flux = 1 + np.exp(-0.5 * ((pixel - centre) / 3) ** 2) + 0.6 * np.exp(-0.5 * ((pixel - centre - 25) / 3) ** 2)
        noisy = flux + 0.1 * rng.normal(size=flux.shape)
        return torch.from_numpy(noisy.astype("f4")), torch.full(flux.shape, 100.0)

    model = al.SpectrumClassifier(n_wavelength=160, n_redshift=14, n_feature=8, n_pattern=6, n_hidden=12).train()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(150):
        place = rng.uniform(0, 13, 64)
        place = np.where((place > 5) & (place < 7), place + 3, place)
        optimizer.zero_grad()
        is_bal = torch.full((64,), torch.nan)
        label = torch.zeros(64, dtype=torch.int64)
        model.loss(*spectra(place), label, torch.from_numpy(place.astype("f4")), is_bal).mean().backward()
        optimizer.step()
    model.where.data[:, 4:9] = model.where.data[:, 9:14]  # what it knows of a place itself was never trained here
    unseen = rng.uniform(5.2, 6.8, 50)
    best = model.eval()(*spectra(unseen)).log_probability[:, :14].argmax(dim=1).numpy()
    assert (np.abs(best - unseen) < 1.01).mean() > 0.9
