"""Training: one loop for every model."""

import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
import torch
from dask.base import tokenize
from torch import distributed as group
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode
from tqdm.auto import tqdm

from astrolab.devices import choose_device
from astrolab.ranks import run_ranks, say
from astrolab.schema import OBJECT, SchemaError, check_spectra, spectral_dim
from astrolab.stores.chunks import chunk_key, load_chunk, save_chunk
from astrolab.training.sample import N_GOOD_MIN, load_training, mixed, usable_part

# s: what a crash costs at most, beside an epoch
_CHECKPOINT_EVERY = 5.0


def fit(
    model,
    spectra,
    *,
    n_epochs=50,
    batch_size=256,
    learning_rate=1e-3,
    n_train=20_000,
    patience=10,
    seed=0,
    device="auto",
    n_workers=1,
    checkpoint_path=None,
    progress=True,
):
    """Train a model on spectra, in place, and return its loss curve.

    The objects are split by a hash of their targetid; the test part is never read. The weights kept are those of the
    epoch with the lowest validation loss; training stops when that has not improved for `patience` epochs. The same
    seed gives the same weights on the same kind of device with the same number of threads, whatever the chunks or the
    number of Dask workers; a training resumed from its checkpoint ends as if it had not been interrupted. Several
    models are trained by `fit_models`, at the same time.

    Parameters
    ----------
    model : torch.nn.Module
        A model whose ``loss(flux, ivar)`` has shape ``(object,)``.
    spectra : xarray.Dataset
        Normalised spectra on the model's grid, dims ``(object, wavelength_rest)``. Of lazy spectra every chunk that
        holds an object used is read, once; for several models, `load_training` reads it once for all. Pixels with
        ``ivar == 0`` do not count; objects with fewer than 50 good pixels, or a good one whose flux or ivar is no
        number, are left out.
    n_epochs, batch_size, learning_rate : optional
        Passes over the data, spectra in a step, step size of Adam. Small samples take smaller batches, so that an epoch
        has about twenty steps.
    n_train : int, optional
        Objects of the training part to use at most (those of lowest hash, so a fair sample); bounds the memory.
    patience : int, optional
        Epochs without a better validation loss before stopping.
    seed : int, optional
        Seed of split, order and sampling.
    device : str, optional
        ``"auto"`` (a GPU when there is one), ``"cpu"``, ``"cuda"``. Mixed precision (bfloat16) on a GPU only.
    n_workers : int, optional
        Dask workers of the cluster in use that train together (torch's DistributedDataParallel), each on its core or
        GPU and with its share of every batch; 1 trains here. Batches and noise are the same whatever their number, so
        that the loss curve is the same up to the order of sums. The first of them writes the checkpoint.
    checkpoint_path : path-like, optional
        File rewritten every few seconds, whole and sealed (`save_chunk`); when it exists, training goes on from it.
    progress : bool or callable, optional
        Show a progress bar; or what is called after each epoch with its row of the curve.

    Returns
    -------
    pandas.DataFrame
        Columns ``epoch``, ``loss_train``, ``loss_valid`` (mean nats an object).

    Raises
    ------
    SchemaError
        If the spectra are not on the model's grid.
    ValueError
        If fewer than two usable objects are left to train on, an option cannot be, the checkpoint is damaged or belongs
        to another training, or there are fewer than `n_workers` workers.
    ConnectionError
        If a worker dies while several train together; with a checkpoint, the same call goes on.

    Examples
    --------
    >>> import astrolab as al
    >>> rest = al.normalize_flux(al.to_restframe(al.simulate_survey(40, seed=0), al.rest_grid(1216, 2900, 100)))
    >>> history = al.fit(al.VAE(n_wavelength=100), rest, n_epochs=2, progress=False)
    >>> list(history.columns)
    ['epoch', 'loss_train', 'loss_valid']
    """
    check_spectra(spectra)
    for name, value in (("n_workers", n_workers), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1.")
    check_grid(model, spectra)
    path = None if checkpoint_path is None else Path(checkpoint_path).absolute()
    settings = {"seed": seed, "batch_size": batch_size, "learning_rate": learning_rate}
    limits = {"n_train": n_train, "n_epochs": n_epochs, "patience": patience, "n_objects": spectra.sizes[OBJECT]}
    if n_workers > 1 or any(isinstance(spectra[name].data, da.Array) for name in ("flux", "ivar")):
        spectra = load_training(spectra, n_train=n_train, seeds=[seed])
    bar = tqdm(total=n_epochs, desc="training", unit="epoch", disable=progress is not True, mininterval=1)
    told = progress if callable(progress) else partial(_show, bar)
    with bar:
        if n_workers == 1:
            history = _fit(model, spectra, _Team(), settings, limits, device, path, told)
        else:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            weights, history = run_ranks(
                _fit_as_rank,
                n_workers,
                *(model, settings, limits, device, path),
                data=spectra,
                folder=None if path is None else path.parent,
                heard=told,
            )
            model.load_state_dict(weights)
            model.to("cpu").eval()
    return pd.DataFrame(history, columns=["epoch", "loss_train", "loss_valid"]).astype({"epoch": "int64"})


def check_grid(model, spectra):
    """Raise a `SchemaError` unless spectra are on the grid of a model."""
    n_pixels = spectra.sizes[spectral_dim(spectra)]
    n_expected = getattr(model, "config", {}).get("n_wavelength", n_pixels)
    if n_expected != n_pixels:
        raise SchemaError(
            f"the spectra have {n_pixels} pixels, the model expects {n_expected}; bring them onto its rest "
            "grid with to_restframe."
        )


def _show(bar, epoch):
    """Show an epoch of the curve; the first that is shown may be one that was trained before."""
    number, loss_train, loss_valid = epoch
    if bar.n == 0:
        bar.initial = number - 1
    bar.set_postfix(loss=f"{loss_train:.4g}", valid=f"{loss_valid:.4g}", refresh=False)
    bar.update(number - bar.n)


def _fit_as_rank(spectra, model, settings, limits, device, path):
    """In a worker, beside others: the group of processes is there."""
    team = _Team.of_group()
    told = say if team.rank == 0 else (lambda epoch: None)
    history = _fit(model, spectra, team, settings, limits, device, path, told)
    return model.state_dict(), history


def _fit(model, spectra, team, settings, limits, device, path, told):
    """Train a model in place, and return its curve."""
    device = choose_device(device)
    seed, batch_size = settings["seed"], settings["batch_size"]
    parts = {}
    for name in ("train", "valid"):
        usable = usable_part(spectra, name, limits["n_train"], seed)
        parts[name] = tuple(torch.from_numpy(values).to(device) for values in usable)
    n_objects = len(parts["train"][0])
    if n_objects < 2:
        raise ValueError(
            f"{n_objects} of {limits['n_objects']} objects can be trained on (training part of the split, at least "
            f"{N_GOOD_MIN} good pixels on the rest grid), expected at least 2; check redshifts and the rest grid."
        )
    if len(parts["valid"][0]) == 0:  # a handful of objects: better no early stopping than none to learn from
        parts["valid"] = parts["train"]
    model.to(device)
    state = _State(model, settings["learning_rate"])
    settings = settings | {"n_train": n_objects}
    settings["spectra"] = tokenize(parts["train"][0].cpu().numpy(), parts["valid"][0].cpu().numpy())
    if path and path.exists():
        state.load(path, settings)
    batch_size = int(min(batch_size, max(16, n_objects // 20)))
    loss_of = team.gather_gradients(model)
    n_epochs, patience = limits["n_epochs"], limits["patience"]
    saved = 0.0
    while state.epoch < n_epochs and state.n_worse < patience:
        loss_train = _train_epoch(loss_of, model, state, parts["train"], batch_size, seed, team)
        state.record(loss_train, _valid_loss(model, parts["valid"], team))
        is_last = state.epoch == n_epochs or state.n_worse == patience
        if path and team.rank == 0 and (is_last or time.monotonic() - saved > _CHECKPOINT_EVERY):
            state.save(path, settings)
            saved = time.monotonic()
        told(state.history[-1])
    model.load_state_dict(state.best)
    model.to("cpu").eval()
    return state.history


class _Team:
    """The processes that train together, by default this one alone; each takes every n-th row of a batch."""

    def __init__(self, rank=0, n_ranks=1):
        self.rank, self.n_ranks = rank, n_ranks

    @classmethod
    def of_group(cls):
        return cls(group.get_rank(), group.get_world_size())

    def share(self, rows):
        return rows[self.rank :: self.n_ranks]

    def sum(self, value):
        if self.n_ranks == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        group.all_reduce(total)
        return float(total)

    def gather_gradients(self, model):
        """Return the model's loss; its gradients are averaged over the team."""
        return model.loss if self.n_ranks == 1 else DistributedDataParallel(_Loss(model))

    def noise(self, n_rows):
        return nullcontext() if self.n_ranks == 1 else _SharedNoise(self, n_rows)


class _Loss(torch.nn.Module):
    """The loss of a model as a module, which is what torch distributes."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, flux, ivar):
        return self.model.loss(flux, ivar)


class _SharedNoise(TorchFunctionMode):
    """Each process draws the noise of the whole batch and takes its rows: it is the same whatever their number."""

    def __init__(self, team, n_rows):
        super().__init__()
        self.team, self.n_rows = team, n_rows

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.randn_like:
            like = args[0]
            whole = torch.randn((self.n_rows, *like.shape[1:]), dtype=like.dtype, device=like.device)
            return self.team.share(whole)
        return function(*args, **(kwargs or {}))


class _State:
    """Everything a training is: weights, optimiser, best weights, curve; saved and loaded as one file."""

    def __init__(self, model, learning_rate):
        self.model = model
        # fused: one pass over weights and moments in place of ten
        self.optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
        self.best, self.best_loss, self.n_worse = _copy(model), float("inf"), 0
        self.history = []

    @property
    def epoch(self):
        return len(self.history)

    def record(self, loss_train, loss_valid):
        self.history.append([self.epoch + 1, loss_train, loss_valid])
        if loss_valid < self.best_loss:
            self.best, self.best_loss, self.n_worse = _copy(self.model), loss_valid, 0
        else:
            self.n_worse += 1

    def save(self, path, settings):
        moments = self.optimizer.state_dict()["state"]
        tensors = {f"weights.{name}": tensor for name, tensor in _copy(self.model).items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors |= {f"adam.{i}.{key}": value for i, state in moments.items() for key, value in state.items()}
        described = {"history": self.history, "best_loss": self.best_loss, "n_worse": self.n_worse}
        tensors = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        save_chunk(path, tensors, chunk_key(type(self.model).__name__, settings), settings=settings, **described)

    def load(self, path, settings):
        arrays, described = load_chunk(path)
        if described.get("settings") != settings:
            raise ValueError(
                f"checkpoint '{path}' belongs to a training with {described.get('settings')}, this one has {settings}; "
                "delete the file, or give the same parameters."
            )
        parts = {"weights": {}, "best": {}, "adam": {}}
        for name, array in arrays.items():
            kind, key = name.split(".", 1)
            parts[kind][key] = torch.from_numpy(array)
        self.model.load_state_dict(parts["weights"])
        self.best = parts["best"]
        state = {}
        for name, tensor in parts["adam"].items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
        self.history, self.best_loss = described["history"], described["best_loss"]
        self.n_worse = described["n_worse"]


def _train_epoch(loss_of, model, state, part, batch_size, seed, team):
    flux, ivar = part
    model.train()
    total = 0.0
    with torch.random.fork_rng(devices=[flux.device] if flux.is_cuda else []):
        torch.manual_seed(mixed(np.array([state.epoch]), seed)[0] >> np.uint64(1))
        order = torch.randperm(len(flux)).to(flux.device)
        for start in range(0, len(flux), batch_size):
            rows = order[start : start + batch_size]
            mine = team.share(rows)
            with torch.autocast("cuda", torch.bfloat16, enabled=flux.is_cuda), team.noise(len(rows)):
                loss = loss_of(flux[mine], ivar[mine])
            state.optimizer.zero_grad(set_to_none=True)
            # the mean of the batch: what the team averages are sums over shares, which may differ by a row
            (loss.sum() * team.n_ranks / len(rows)).backward()
            # one broken spectrum must not throw the weights away
            torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
            state.optimizer.step()
            total += float(loss.detach().sum())
    return team.sum(total) / len(flux)


@torch.no_grad()
def _valid_loss(model, part, team):
    model.eval()
    flux, ivar = (team.share(rows) for rows in part)
    total = sum(float(model.loss(flux[i : i + 1024], ivar[i : i + 1024]).sum()) for i in range(0, len(flux), 1024))
    return team.sum(total) / len(part[0])


def _copy(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
