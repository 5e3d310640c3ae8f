"""A small convolutional network that reads class, redshift and broad absorption off an observed spectrum."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

QSO, GALAXY, STAR, NOTHING = range(4)
_SMOOTH = 65  # pixels of the running mean that is taken for the continuum


class Answer(NamedTuple):
    """What `SpectrumClassifier.forward` gives.

    Attributes
    ----------
    log_probability : torch.Tensor, shape (object, 2 n_redshift + 2)
        Calibrated ln of the probability of each cell: quasar in each redshift bin, galaxy in each bin, star, nothing.
    offset : torch.Tensor, shape (object, 2 n_redshift)
        Where in its bin the redshift lies, if it is in that bin: -1 to 1 in widths of a bin from its centre.
    bal_logit : torch.Tensor, shape (object,)
        Calibrated logit of the probability that the object, if it is a quasar, has broad absorption lines.
    """

    log_probability: torch.Tensor
    offset: torch.Tensor
    bal_logit: torch.Tensor


class SpectrumClassifier(nn.Module):
    """Class, redshift and broad absorption of spectra on one logarithmic grid of observed wavelengths.

    On such a grid a redshift is a shift. So convolutions make features of the spectrum, features are correlated with
    learned rest-frame patterns at every shift (by FFT), and what comes out is judged shift by shift: what was learned
    about a line at one redshift holds at all. Stars, which do not shift, and empty spectra are told by their features
    where they stand. One softmax over everything gives the probability of class and redshift together.

    Parameters
    ----------
    n_wavelength : int
        Pixels of the grid, a multiple of 8; a redshift bin is 8 pixels wide in ln(wavelength).
    n_redshift : int
        Redshift bins; bin k is centred on a shift of 8 k pixels.
    n_feature, n_pattern, n_hidden : int, optional
        Features of a spectrum, rest-frame patterns, and width of the layers that judge.
    seed : int, optional
        Seed of the initial weights.

    Notes
    -----
    Busca & Balland (2018, arXiv:1808.09955; QuasarNET) read line positions off the spectrum; temperature scaling of the
    probabilities is that of Guo et al. (2017, arXiv:1706.04599).

    Examples
    --------
    >>> model = SpectrumClassifier(n_wavelength=800, n_redshift=50).eval()
    >>> log_probability = model(torch.ones(3, 800), torch.ones(3, 800)).log_probability
    >>> log_probability.shape  # quasars and galaxies at 50 redshifts, stars, nothing
    torch.Size([3, 102])
    >>> bool(torch.allclose(log_probability.exp().sum(dim=1), torch.ones(3)))
    True
    """

    def __init__(self, n_wavelength, n_redshift, n_feature=32, n_pattern=16, n_hidden=40, seed=0):
        super().__init__()
        self.config = {
            "n_wavelength": n_wavelength,
            "n_redshift": n_redshift,
            "n_feature": n_feature,
            "n_pattern": n_pattern,
            "n_hidden": n_hidden,
            "seed": seed,
        }
        self.n_cell, self.n_redshift = n_wavelength // 8, n_redshift
        n_rest = self.n_cell + n_redshift - 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.features = nn.Sequential(
                nn.Conv1d(4, 16, 9, stride=2, padding=4),
                nn.SiLU(),
                nn.Conv1d(16, 32, 7, stride=2, padding=3),
                nn.SiLU(),
                nn.Conv1d(32, n_feature, 5, stride=2, padding=2),
                nn.SiLU(),
                nn.Conv1d(n_feature, n_feature, 3, padding=1),
            )
            self.patterns = nn.Parameter(torch.randn(n_pattern, n_feature, n_rest) / (n_feature * self.n_cell) ** 0.5)
            self.where = nn.Parameter(torch.zeros(n_hidden, n_redshift))
            self.judge = nn.Conv1d(n_pattern, n_hidden, 3, padding=1)
            self.judge_again = nn.Conv1d(n_hidden, n_hidden, 3, padding=1)
            self.verdict = nn.Conv1d(n_hidden, 4, 1)  # quasar, galaxy, and the offset of each
            self.narrow = nn.Conv1d(n_feature, 8, 1)
            self.unmoved = nn.Sequential(nn.Linear(8 * self.n_cell, n_hidden), nn.SiLU(), nn.Linear(n_hidden, 2))
            self.bal = nn.Sequential(nn.Linear(n_hidden, n_hidden), nn.SiLU(), nn.Linear(n_hidden, 1))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("bal_temperature", torch.ones(()))

    def forward(self, flux, ivar):
        """Judge spectra.

        Parameters
        ----------
        flux, ivar : torch.Tensor, shape (object, n_wavelength)
            Flux of any scale and its inverse variance; ``ivar == 0`` counts for nothing.

        Returns
        -------
        Answer
            Probabilities, offsets and the logit of broad absorption.
        """
        features = self.features(self._channels(flux, ivar))  # (object, n_feature, n_cell)
        hidden = functional.silu(self.judge(self._correlated(features)) + self.where)  # (object, n_hidden, n_redshift)
        hidden = hidden + functional.silu(self.judge_again(hidden))
        verdict = self.verdict(hidden)
        unmoved = self.unmoved(functional.silu(self.narrow(features)).flatten(1))
        logits = torch.cat([verdict[:, :2].flatten(1), unmoved], dim=1)
        # broad absorption is judged at the redshifts that a quasar may have
        share = torch.softmax(verdict[:, 0], dim=1)
        bal_logit = self.bal(torch.einsum("ohk,ok->oh", hidden, share))[:, 0]
        return Answer(
            torch.log_softmax(logits / self.temperature, dim=1),
            torch.tanh(verdict[:, 2:]).flatten(1),
            bal_logit / self.bal_temperature,
        )

    def loss(self, flux, ivar, label, place, is_bal):
        """Return the loss of each spectrum.

        Parameters
        ----------
        flux, ivar : torch.Tensor, shape (object, n_wavelength)
            As in `forward`.
        label : torch.Tensor, shape (object,), int64
            `QSO`, `GALAXY`, `STAR` or `NOTHING`.
        place : torch.Tensor, shape (object,)
            ln(1 + redshift) in bins; ignored for the last two.
        is_bal : torch.Tensor, shape (object,)
            1 with broad absorption, 0 without, NaN where unknown.

        Returns
        -------
        torch.Tensor, shape (object,)
            Nats of class and redshift, plus the error of the offset, plus nats of broad absorption.
        """
        out = self(flux, ivar)
        is_shifted = label <= GALAXY
        place = place.clamp(0, self.n_redshift - 1)
        low = place.floor().clamp_max(self.n_redshift - 2)
        # between two bins: both are right, the nearer one more so
        part = torch.where(is_shifted, place - low, 0)
        first = torch.where(is_shifted, label * self.n_redshift + low.long(), 2 * self.n_redshift + label - STAR)
        cells = torch.stack([first, torch.where(is_shifted, first + 1, first)], dim=1)
        share = torch.stack([1 - part, part], dim=1)
        total = -(share * out.log_probability.gather(1, cells)).sum(dim=1)
        offset = out.offset.gather(1, torch.where(is_shifted[:, None], cells, 0))
        error = offset - torch.stack([part, part - 1], dim=1)
        total = total + torch.where(is_shifted, 3 * (share * error.abs()).sum(dim=1), 0)
        knows = torch.isfinite(is_bal)
        wanted = torch.where(knows, is_bal, 0)
        bal = functional.binary_cross_entropy_with_logits(out.bal_logit, wanted, reduction="none")
        return total + torch.where(knows, bal, 0)

    def _channels(self, flux, ivar):
        """Shape shrunk by its noise; lines over the running mean in sigma; how sure, and where anything is known."""
        good = ivar > 0
        flux = torch.where(good, flux, 0)
        # a median that leaves out the pixels that are not good
        ordered = torch.where(good, flux.abs(), torch.inf).sort(dim=1).values
        middle = ((good.sum(dim=1, keepdim=True) - 1) // 2).clamp_min(0)
        level = ordered.gather(1, middle)
        level = torch.where(torch.isfinite(level) & (level > 0), level, 1)
        flux, ivar = flux / level, ivar * level**2
        weight = ivar / (1 + ivar)
        ends = functional.avg_pool1d(weight[:, None], _SMOOTH, 1, _SMOOTH // 2)[:, 0]
        mean = functional.avg_pool1d((weight * flux.clamp(-5, 50))[:, None], _SMOOTH, 1, _SMOOTH // 2)[:, 0]
        mean = mean / ends.clamp_min(1e-3)
        excess = torch.where(good, (flux - mean) * torch.sqrt(ivar), 0)
        shape = torch.asinh(flux.clamp(-5, 50) * weight)
        return torch.stack([shape, 0.5 * torch.asinh(excess.clamp(-1e4, 1e4)), weight, good.to(flux.dtype)], dim=1)

    def _correlated(self, features):
        """Σ over cells of feature times pattern, at every redshift: (object, n_pattern, n_redshift)."""
        n_rest = self.patterns.shape[2]
        size = 1 << (n_rest + self.n_cell - 1).bit_length()
        # bin k looks at the pattern from cell n_redshift - 1 - k on: the larger the redshift, the bluer the rest
        both = torch.einsum("ocf,pcf->opf", torch.fft.rfft(features, size).conj(), torch.fft.rfft(self.patterns, size))
        return torch.fft.irfft(both, size)[..., : self.n_redshift].flip(2)
