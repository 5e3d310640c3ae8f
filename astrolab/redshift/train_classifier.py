"""Train the network that AstroLab ships: ``python -m astrolab.redshift.train_classifier FOLDER``.

FOLDER holds labelled SDSS spectra (``sdss/truth.csv`` and the files it names). Half of their objects, by a hash, are
seen neither in training nor in calibration: figures are theirs. One core, about fifteen minutes.
"""

import json
import sys
import time
from hashlib import sha256

import numpy as np
import torch
from safetensors.torch import save
from scipy.optimize import minimize_scalar
from torch.nn import functional

from astrolab.models.classifier import GALAXY, NOTHING, QSO, SpectrumClassifier
from astrolab.redshift.network import _OWN, BIN, N_REDSHIFT, N_WAVELENGTH, summarize
from astrolab.redshift.training_spectra import Labelled, real_spectra, simulated_training_spectra

_N_SIMULATED, _N_VALIDATION = 28_000, 3_000
_BATCH, _N_REAL = 128, 24  # spectra in a batch, and how many of them are real
_RATE = 2e-3
_LIMIT = {QSO: 3000.0, GALAXY: 1000.0}  # km/s


def train_classifier(simulated, real, n_steps, seed=0):
    """Train a network.

    Parameters
    ----------
    simulated, real : Labelled
        Spectra to learn from; every batch holds 24 real ones, if `real` is not None.
    n_steps : int
        Batches of 128.
    seed : int, optional
        Seed of the weights and of the order.

    Returns
    -------
    SpectrumClassifier
        In evaluation mode, not calibrated.
    """
    model = SpectrumClassifier(N_WAVELENGTH, N_REDSHIFT, seed=seed).train()
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=n_steps, pct_start=0.15)
    sources = [(simulated, _BATCH)] if real is None else [(simulated, _BATCH - _N_REAL), (real, _N_REAL)]
    start, mean = time.monotonic(), 0.0
    for step in range(n_steps):
        parts = [_augmented(_drawn(source, n, draw), draw, source is real) for source, n in sources]
        optimizer.zero_grad()
        loss = model.loss(*(torch.cat(part) for part in zip(*parts, strict=True))).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean += (loss.item() - mean) / min(step + 1, 100)
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} of {n_steps}, {time.monotonic() - start:.0f} s, loss {mean:.3f}", flush=True)
    return model.eval()


def calibrate(model, *parts):
    """Set the temperatures that make the truth of spectra most likely, which the network has not seen.

    Parameters
    ----------
    model : SpectrumClassifier
        Its buffers are set.
    *parts : Labelled
        Every part weighs the same, however many spectra it has.
    """
    outputs = [(_judged(model, part), part) for part in parts]

    def loss(log_temperature):
        total = 0.0
        for (log_probability, _, _), part in outputs:
            scaled = torch.log_softmax(log_probability / np.exp(log_temperature), dim=1)
            total += functional.nll_loss(scaled, _cell(part)).item()
        return total

    def bal_loss(log_temperature):
        logit = outputs[0][0][2]
        wanted = torch.from_numpy(parts[0].is_bal)
        knows = torch.isfinite(wanted)
        return functional.binary_cross_entropy_with_logits(logit[knows] / np.exp(log_temperature), wanted[knows]).item()

    model.temperature.fill_(np.exp(minimize_scalar(loss, bounds=(-1, 3), method="bounded").x))
    model.bal_temperature.fill_(np.exp(minimize_scalar(bal_loss, bounds=(-1, 3), method="bounded").x))


def figures(model, part):
    """Measure a network on labelled spectra.

    Parameters
    ----------
    model : SpectrumClassifier
        Calibrated.
    part : Labelled
        Spectra that it has not seen.

    Returns
    -------
    dict
        Per class: how many, of them the right class, and near in redshift (3,000 km/s, galaxies 1,000); the expected
        calibration error of class and redshift together; and how broad absorption is told.
    """
    answers = summarize(*(one.numpy() for one in _judged(model, part)))
    found = answers[:, :4].argmax(axis=1)
    rows = np.arange(len(found))
    kind = np.minimum(found, 1)
    velocity = 299792.458 * np.abs(np.log1p(answers[rows, 4 + kind]) - part.place * BIN)
    is_class = found == part.label
    is_near = is_class & ((part.label > GALAXY) | (velocity < np.where(part.label == QSO, *_LIMIT.values())))
    is_close = is_class & ((part.label > GALAXY) | (velocity < 1.5 * BIN * 299792.458))
    stated = answers[rows, found] * np.where(found <= GALAXY, answers[rows, 6 + kind], 1)
    out = {
        name: {"n": int(own.sum()), "class": int(is_class[own].sum()), "class_and_redshift": int(is_near[own].sum())}
        for name, own in zip(("QSO", "GALAXY", "STAR", "nothing"), np.arange(4)[:, None] == part.label, strict=True)
    }
    out["calibration_error"] = round(float(calibration_error(stated, is_close)), 4)
    knows, is_bal = np.isfinite(part.is_bal) & (part.label < NOTHING), part.is_bal == 1
    if is_bal.any():
        told = answers[:, 8] > 0.5
        out["bal"] = {
            "n": int(is_bal.sum()),
            "found": int((told & is_bal).sum()),
            "false": f"{int((told & knows & ~is_bal).sum())} of {int((knows & ~is_bal).sum())}",
        }
    return out


def calibration_error(stated, is_right):
    """Return the expected calibration error: the mean of |stated - right| over ten bins of probability.

    Parameters
    ----------
    stated : numpy.ndarray, shape (n_object,)
        Stated probabilities.
    is_right : numpy.ndarray, shape (n_object,), bool
        Whether the answer was right.

    Returns
    -------
    float
        0 is perfect. Guo et al. (2017, arXiv:1706.04599).

    Examples
    --------
    >>> calibration_error(np.array([1.0, 1.0, 0.5, 0.5]), np.array([True, True, True, False]))
    0.0
    """
    number = np.minimum((np.asarray(stated) * 10).astype(int), 9)
    total = 0.0
    for k in np.unique(number):
        own = number == k
        total += own.mean() * abs(stated[own].mean() - is_right[own].mean())
    return float(total)


def save_classifier(model, card):
    """Write the weights, as float16, and the card to where AstroLab ships them."""
    content = save({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()})
    _OWN.write_bytes(content)
    card = card | {"config": model.config, "sha256": sha256(content).hexdigest()}
    _OWN.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")


def _judged(model, part):
    with torch.inference_mode():
        starts = range(0, len(part.label), _BATCH)
        outputs = [model(*(torch.from_numpy(one[i : i + _BATCH]) for one in (part.flux, part.weight))) for i in starts]
    return [torch.cat(one) for one in zip(*outputs, strict=True)]


def _cell(part):
    label = torch.from_numpy(np.array(part.label))
    nearest = torch.from_numpy(part.place).round().long().clamp(0, N_REDSHIFT - 1)
    return torch.where(label <= GALAXY, label * N_REDSHIFT + nearest, 2 * N_REDSHIFT + label - 2)


def _drawn(source, n, draw):
    rows = torch.randint(len(source.label), (n,), generator=draw).numpy()
    return Labelled(*(torch.from_numpy(column[rows]) for column in source))


def _augmented(batch, draw, is_real):
    """Observe the same objects again: noisier, over less of the grid, and (real ones) at another redshift."""
    flux, weight, label, place, is_bal = batch
    n = len(label)
    flux, weight = flux.clone(), weight.clone()
    if is_real:
        shift = torch.randint(-20, 21, (n,), generator=draw) * 8
        movable = (label <= GALAXY) & (place + shift / 8 >= 0) & (place + shift / 8 < N_REDSHIFT - 1)
        shift = torch.where(movable & (torch.rand(n, generator=draw) < 0.5), shift, 0)
        at = torch.arange(N_WAVELENGTH) - shift[:, None]
        inside = (at >= 0) & (at < N_WAVELENGTH)
        at = at.clamp(0, N_WAVELENGTH - 1)
        flux, weight = flux.gather(1, at), torch.where(inside, weight.gather(1, at), 0)
        place = place + shift / 8
    more = torch.where(torch.rand(n, generator=draw) < 0.4, 3 * torch.rand(n, generator=draw) ** 2, 0)[:, None]
    sigma = torch.where(weight > 0, weight.clamp_min(1e-30).rsqrt(), 0)
    flux = flux + sigma * more * torch.randn(flux.shape, generator=draw)
    # stated errors are never quite right
    weight = weight / (1 + more**2) * torch.exp(0.15 * torch.randn(n, 1, generator=draw))
    ends = torch.where(torch.rand(n, 2, generator=draw) < 0.3, torch.rand(n, 2, generator=draw) ** 2 * 250, 0)
    pixel = torch.arange(N_WAVELENGTH)
    inside = (pixel >= ends[:, :1]) & (pixel < N_WAVELENGTH - ends[:, 1:])
    return flux, torch.where(inside, weight, 0), label, place, is_bal


def main():
    """Train, calibrate, measure and ship."""
    torch.set_num_threads(1)
    folder = sys.argv[1]
    n_steps = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
    simulated = simulated_training_spectra(_N_SIMULATED, seed=1)
    validation = simulated_training_spectra(_N_VALIDATION, seed=2)
    real = {part: real_spectra(folder, part) for part in ("training", "calibration", "held out")}
    model = train_classifier(simulated, real["training"], n_steps)
    calibrate(model, validation, real["calibration"])
    numbers = ", ".join(f"{len(part.label)} {name}" for name, part in real.items())
    card = {
        "title": "AstroLab's network of classes and redshifts",
        "made_from": f"{_N_SIMULATED} spectra of AstroLab's simulator, and labelled SDSS, BOSS and eBOSS spectra "
        f"(public data; by a hash of the object: {numbers})",
        "command": "python -m astrolab.redshift.train_classifier FOLDER_OF_LABELLED_SPECTRA",
        "training": f"{n_steps} batches of {_BATCH}, of which {_N_REAL} real; AdamW; temperature "
        f"{model.temperature:.3f} (absorption {model.bal_temperature:.3f}) from simulated and calibration spectra",
        "figures_simulated": figures(model, validation),
        "figures_real_held_out": figures(model, real["held out"]),
        "limits": "Quasars to redshift 6.1, galaxies to 1.7; redshifts good to some hundred km/s; no velocity of "
        "stars; broad absorption was learned from simulated troughs. Real figures are of few spectra of chosen "
        "objects, not of a population.",
    }
    save_classifier(model, card)
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
