"""Rankers: AstroLab's own, and the baselines it has to beat.

A ranker from outside the package is named ``--ranker module:name`` and is one of two things:

- a function ``rank(spectra) -> table``: gets an `xarray.Dataset` (observed frame, as `open_spectra` gives; training and
  test rows together, unlabelled) and returns a `pandas.DataFrame` with ``targetid`` and ``score`` (larger = stranger).
  It is called anew for every list of the benchmark, some 500 times: for quick rankers.
- a class with ``fit(spectra)`` (label-free, contaminated) and ``score(spectra) -> table``, made as ``name(seed=0)``.
  `fit` is called once a fold and seed, `score` for every list.

An object without a row, or with a NaN score, takes the last places. Columns other than ``targetid`` and ``score`` are
ignored, but for ``p_value``: where it is there, its uniformity on ordinary objects is reported.
"""

import importlib

import numpy as np
import pandas as pd
import torch
import xarray as xr
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from torch import nn

from astrolab.anomaly.ranking import score_anomalies
from astrolab.medians import median_snr
from astrolab.models.pretrained import start_vaes
from astrolab.schema import OBJECT, check_targetid
from astrolab.spectra import normalize_flux, rest_grid, to_restframe
from astrolab.training import fit

# the grid of the template rank_anomalies
_GRID = (1000.0, 7500.0, 1500)
_N_COMPONENT = 20


class Random:
    """Places drawn at random."""

    def __init__(self, seed=0):
        self.seed = seed

    def fit(self, spectra):
        """Learn nothing."""

    def score(self, spectra):
        """Draw a number for each targetid, the same in every list."""
        keys = spectra["targetid"].values
        draws = [np.random.default_rng([self.seed, abs(int(key)) % 2**63]).random() for key in keys]
        return _table(spectra, draws)


class InverseSNR(Random):
    """One over the median S/N: noise takes the top."""

    def score(self, spectra):
        """Score by the observed spectrum's median S/N."""
        return _table(spectra, 1 / np.maximum(median_snr(spectra["flux"].values, spectra["ivar"].values), 1e-2))


class _InRestFrame:
    """A ranker that works on normalised rest-frame spectra; flux and ivar as numpy arrays."""

    def __init__(self, seed=0, grid=_GRID):
        self.seed, self.grid = seed, rest_grid(*grid)

    def fit(self, spectra):
        """Learn from normalised rest-frame spectra."""
        self._learn(*self._arrays(spectra))

    def score(self, spectra):
        """Score normalised rest-frame spectra."""
        return _table(spectra, self._score(*self._arrays(spectra)))

    def _arrays(self, spectra):
        rest = rest_frame(spectra, self.grid)
        return rest["flux"].values.astype("float64"), rest["ivar"].values.astype("float64")


class TemplateFit(_InRestFrame):
    """Reduced χ² of the mean quasar, with amplitude and slope free."""

    def _learn(self, flux, ivar):
        weight = ivar / (1 + ivar)  # no bright object alone is the mean
        mean = (weight * flux).sum(0) / np.maximum(weight.sum(0), 1e-12)
        self.basis = np.stack([mean, mean * np.linspace(-1, 1, len(mean))])

    def _score(self, flux, ivar):
        return np.log(_reduced_chi2(flux, ivar, _project(flux, ivar, self.basis) @ self.basis))


class PCA(_InRestFrame):
    """χ² that 20 principal components leave; components from the iterated fill of what is not measured."""

    def _learn(self, flux, ivar):
        weight = ivar / (1 + ivar)
        self.mean = (weight * flux).sum(0) / np.maximum(weight.sum(0), 1e-12)
        part = np.where(ivar > 0, weight * (np.clip(flux, -5, 20) - self.mean), 0)
        filled = part
        n_component = min(_N_COMPONENT, len(flux) // 4)
        for _ in range(8):
            _, _, self.basis = np.linalg.svd(filled, full_matrices=False)
            self.basis = self.basis[:n_component]
            # toward zero where the noise is larger than the light, toward the model where nothing was measured
            filled = part + (1 - weight) * (filled @ self.basis.T @ self.basis)

    def _coefficients(self, flux, ivar):
        return _project(flux - self.mean, np.where(ivar > 0, ivar / (1 + 0.01 * ivar), 0), self.basis, ridge=1.0)

    def _score(self, flux, ivar):
        model = self.mean + self._coefficients(flux, ivar) @ self.basis
        return np.log(_reduced_chi2(flux, ivar, model))


class IsolationOnPCA(PCA):
    """Isolation forest on the 20 coefficients."""

    def _learn(self, flux, ivar):
        super()._learn(flux, ivar)
        self.forest = IsolationForest(n_estimators=200, random_state=self.seed).fit(self._coefficients(flux, ivar))

    def _score(self, flux, ivar):
        return -self.forest.score_samples(self._coefficients(flux, ivar))


class PlainVAE(_InRestFrame):
    """A plain VAE's reconstruction error: mean squared, no noise weights, no calibration (as Nicolaou et al. 2025)."""

    def __init__(self, seed=0, grid=_GRID, n_epochs=80):
        super().__init__(seed, grid)
        self.n_epochs = n_epochs

    def fit(self, spectra):
        """Train, or take the net that was trained a moment ago on the same spectra."""
        key = (id(spectra), self.seed, len(self.grid), self.n_epochs)
        if _LAST_NET.get("key") != key:
            self._train(*self._arrays(spectra))
            _LAST_NET.update(key=key, net=self.net, spectra=spectra)
        self.net = _LAST_NET["net"]
        self._learn(*self._arrays(spectra))

    def _learn(self, flux, ivar):
        """Nothing beside the net."""

    def _train(self, flux, ivar):
        torch.manual_seed(self.seed)
        flux, good = _filled(flux, ivar)
        self.net = _PlainNet(flux.shape[1])
        optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3)
        for _ in range(self.n_epochs):
            for rows in torch.randperm(len(flux)).split(max(16, len(flux) // 20)):
                mean, logvar = self.net.encode(flux[rows])
                latent = mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)
                error = (((self.net.decoder(latent) - flux[rows]) * good[rows]) ** 2).sum(1)
                divergence = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(1)
                optimizer.zero_grad()
                (error + divergence).mean().backward()
                nn.utils.clip_grad_norm_(self.net.parameters(), 100.0)
                optimizer.step()

    @torch.inference_mode()
    def _score(self, flux, ivar):
        flux, good = _filled(flux, ivar)
        model = self.net.decoder(self.net.encode(flux)[0])
        return (((model - flux) * good) ** 2).sum(1).numpy() / np.maximum(good.sum(1).numpy(), 1)


class LatentDensity(PlainVAE):
    """Minus the log density of a Gaussian mixture on the plain VAE's latent vectors (for the flow of Liang et al.)."""

    def _learn(self, flux, ivar):
        latent = self._latent(flux, ivar)
        self.mixture = GaussianMixture(min(4, len(latent) // 8), reg_covar=1e-3, random_state=self.seed).fit(latent)

    @torch.inference_mode()
    def _latent(self, flux, ivar):
        return self.net.encode(_filled(flux, ivar)[0])[0].numpy().astype("float64")

    def _score(self, flux, ivar):
        return -self.mixture.score_samples(self._latent(flux, ivar))


class AstroLab:
    """AstroLab's ranking as the template rank_anomalies makes it: `start_vaes`, `fit`, then `score_anomalies`.

    Training rows stand in the list that is scored, as in use, and so are peers; they are taken out afterwards.
    """

    def __init__(self, seed=0, grid=_GRID, n_models=5, n_epochs=60, warm_start="auto"):
        self.seed, self.grid = seed, rest_grid(*grid)
        self.n_models, self.n_epochs, self.warm_start = n_models, n_epochs, warm_start

    def fit(self, spectra):
        """Train the autoencoders."""
        self.training = rest_frame(spectra, self.grid)
        first = self.seed * self.n_models
        self.models, learning_rate, _ = start_vaes(
            self.grid, n_models=self.n_models, warm_start=self.warm_start, seed=first
        )
        for i, model in enumerate(self.models):
            settings = {"n_epochs": self.n_epochs, "learning_rate": learning_rate, "seed": first + i}
            fit(model, self.training, device="cpu", progress=False, **settings)

    def score(self, spectra):
        """Score among the training spectra, and keep the columns of the ranking's parts."""
        both = together(self.training, rest_frame(spectra, self.grid))
        ranking = score_anomalies(self.models, both, seed=self.seed).ranking
        ranking = ranking[ranking["targetid"].isin(spectra["targetid"].values)]
        return ranking.assign(score=ranking["anomaly_score"])


BASELINES = {
    "random": Random,
    "1/SNR": InverseSNR,
    "template χ²": TemplateFit,
    "PCA-20 χ²": PCA,
    "PCA-20 isolation": IsolationOnPCA,
    "plain VAE": PlainVAE,
    "latent density": LatentDensity,
}
# columns of the table that AstroLab gives, beside anomaly_score, ranked as if they were rankers
PARTS = {"AstroLab: chi2": "score_chi2", "AstroLab: raw": "raw_score"}


def load_plugin(name):
    """Return what ``module:name`` names.

    Parameters
    ----------
    name : str
        Such as ``mypackage.ranking:MyRanker``; the current folder is searched too.

    Returns
    -------
    object

    Raises
    ------
    ValueError
        If it is not of that form, or there is nothing of that name.
    """
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"'{name}' is no plug-in, expected module:name such as mypackage.ranking:MyRanker.")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"'{name}' cannot be loaded ({error}); expected module:name on PYTHONPATH.") from error


def as_ranker(plugin, seed):
    """Return an object with `fit` and `score`, of a class or of a plain function."""
    is_class = isinstance(getattr(plugin, "func", plugin), type)  # a partial of a class is one too
    return plugin(seed=seed) if is_class else _Function(plugin)


def check_scores(table, name):
    """Return what a ranker gave, if it is a table of scores: a mistake must not pass for a bad ranking."""
    if not isinstance(table, pd.DataFrame) or not {"targetid", "score"} <= set(table):
        raise ValueError(f"the ranker '{name}' gave no pandas.DataFrame with the columns targetid and score.")
    check_targetid(table["targetid"], f"scores of '{name}'")
    if table["targetid"].duplicated().any():
        twice = table["targetid"][table["targetid"].duplicated()].iloc[0]
        raise ValueError(f"the ranker '{name}' scored targetid {twice} more than once, expected one row an object.")
    return table


def together(first, second):
    """Return the rows of both Datasets in one; columns that only one has are left out."""
    columns = [name for name in first.coords if name in second.coords and first[name].dims == (OBJECT,)]
    dim = [name for name in first["flux"].dims if name != OBJECT]
    variables = [name for name in first.data_vars if name in second.data_vars]
    parts = [one[variables].drop_vars(set(one.coords) - {*columns, *dim}) for one in (first, second)]
    return xr.concat(parts, dim=OBJECT, combine_attrs="drop_conflicts")


def rest_frame(spectra, grid):
    """Return normalised rest-frame spectra; remembered for the list at hand, which every ranker is given in turn."""
    key = (id(spectra), len(grid), float(grid[0]))
    if key not in _RECENT:
        while len(_RECENT) >= 6:
            _RECENT.pop(next(iter(_RECENT)))
        # the spectra are kept too, so that their id is not given to others meanwhile
        _RECENT[key] = (spectra, normalize_flux(to_restframe(spectra, grid)))
    return _RECENT[key][1]


_RECENT = {}
_LAST_NET = {}


class _Function:
    def __init__(self, rank):
        self.rank = rank

    def fit(self, spectra):
        self.training = spectra

    def score(self, spectra):
        return self.rank(together(self.training, spectra))


class _PlainNet(nn.Module):
    def __init__(self, n_wavelength, n_latent=8, n_hidden=256):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(n_wavelength, n_hidden), nn.SiLU(), nn.Linear(n_hidden, n_hidden // 2), nn.SiLU(),
            nn.Linear(n_hidden // 2, 2 * n_latent),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(n_latent, n_hidden // 2), nn.SiLU(), nn.Linear(n_hidden // 2, n_hidden), nn.SiLU(),
            nn.Linear(n_hidden, n_wavelength),
        )  # fmt: skip

    def encode(self, flux):
        mean, logvar = self.encoder(flux).chunk(2, dim=1)
        return mean, logvar.clamp(-12, 8)


def _table(spectra, score):
    return pd.DataFrame({"targetid": spectra["targetid"].values, "score": np.asarray(score, float)})


def _filled(flux, ivar):
    good = ivar > 0
    return torch.tensor(np.where(good, flux, 0), dtype=torch.float32), torch.tensor(good, dtype=torch.float32)


def _project(flux, ivar, basis, ridge=1e-6):
    """Least squares on a basis, each object with its own ivar and coverage."""
    normal = np.einsum("op,ap,bp->oab", ivar, basis, basis, optimize=True)
    right = (ivar * flux) @ basis.T
    return np.linalg.solve(normal + ridge * np.eye(len(basis)), right[..., None])[..., 0]


def _reduced_chi2(flux, ivar, model):
    n_good = np.maximum((ivar > 0).sum(axis=1), 1)
    return np.maximum((ivar * (flux - model) ** 2).sum(axis=1) / n_good, 1e-6)
