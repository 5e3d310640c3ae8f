"""Models on disk: weights as safetensors, architecture as JSON; never pickle."""

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save

from astrolab.models.classifier import SpectrumClassifier
from astrolab.models.vae import VAE

MODELS = {"VAE": VAE, "SpectrumClassifier": SpectrumClassifier}

WEIGHTS_FILE = "weights.safetensors"
CONFIG_FILE = "model.json"


class ModelFileError(ValueError):
    """A model folder cannot be loaded."""


def save_model(model, dir_path, **card):
    """Save a model to a folder: ``weights.safetensors`` and ``model.json``.

    Parameters
    ----------
    model : torch.nn.Module
        One of AstroLab's models; its `config` holds the constructor's keyword arguments.
    dir_path : path-like
        Folder to make or to write into.
    **card
        Anything JSON can hold that a user of the model should know, such as the rest grid or what it was trained on.

    Returns
    -------
    pathlib.Path
        The folder.

    Examples
    --------
    >>> import tempfile, astrolab as al
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     saved = al.save_model(al.VAE(n_wavelength=100, n_latent=4), folder, trained_on="nothing")
    ...     al.load_model(saved).config["n_latent"]
    4
    """
    folder = Path(dir_path)
    folder.mkdir(parents=True, exist_ok=True)
    weights = model_to_bytes(model)[1]
    described = {"model": type(model).__name__, "config": model.config, "card": card}
    described["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    _write(folder / WEIGHTS_FILE, weights)
    _write(folder / CONFIG_FILE, json.dumps(described, indent=2, sort_keys=True).encode())
    return folder


def load_model(dir_path):
    """Load a model saved by `save_model`.

    Parameters
    ----------
    dir_path : path-like
        Folder with ``weights.safetensors`` and ``model.json``.

    Returns
    -------
    torch.nn.Module
        In evaluation mode, on the CPU.

    Raises
    ------
    ModelFileError
        If a file is missing or damaged, or the weights do not fit the architecture.

    Examples
    --------
    >>> import tempfile, astrolab as al
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     saved = al.save_model(al.VAE(n_wavelength=100), folder)
    ...     al.load_model(folder).config["n_wavelength"]
    100
    """
    folder = Path(dir_path)
    try:
        described = json.loads((folder / CONFIG_FILE).read_text())
        weights = (folder / WEIGHTS_FILE).read_bytes()
        name, config = described["model"], described["config"]
    except FileNotFoundError as error:
        raise ModelFileError(f"'{folder}' is no saved model: {Path(error.filename).name} is missing.") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ModelFileError(f"'{folder / CONFIG_FILE}' is damaged: {error}.") from error
    expected = described.get("weights_sha256")  # safetensors itself takes a flipped bit for a number
    if expected and hashlib.sha256(weights).hexdigest() != expected:
        raise ModelFileError(f"'{folder / WEIGHTS_FILE}' is damaged: its sha256 is not the one in {CONFIG_FILE}.")
    return model_from_bytes((name, config), weights)


def read_card(dir_path):
    """Return what `save_model` was told beside the model.

    Parameters
    ----------
    dir_path : path-like
        Folder with ``model.json``.

    Returns
    -------
    dict
    """
    return json.loads((Path(dir_path) / CONFIG_FILE).read_text())["card"]


def model_to_bytes(model):
    """Return ``(name, config)`` and the weights of a model as safetensors bytes.

    Parameters
    ----------
    model : torch.nn.Module
        One of AstroLab's models.

    Returns
    -------
    tuple
        ``((name, config), weights)``: a few MB that may travel to a worker.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return (type(model).__name__, model.config), save(state)


def model_from_bytes(described, weights):
    """Make a model from what `model_to_bytes` gave.

    Parameters
    ----------
    described : tuple
        Name and constructor's keyword arguments.
    weights : bytes
        Safetensors.

    Returns
    -------
    torch.nn.Module
        In evaluation mode, on the CPU.

    Raises
    ------
    ModelFileError
        If the name is unknown, or the weights are damaged, not finite, or do not fit.
    """
    name, config = described
    if name not in MODELS:
        raise ModelFileError(
            f"the model is a '{name}', expected one of: {', '.join(MODELS)}; one of your own needs a line in MODELS of "
            "astrolab/models/files.py."
        )
    try:
        model = MODELS[name](**config)
        state = load(weights)
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError, TypeError) as error:
        raise ModelFileError(f"the weights of the {name} are damaged or do not fit {config}: {error}") from error
    unfinished = [key for key, tensor in state.items() if not tensor.isfinite().all()]
    if unfinished:
        raise ModelFileError(f"the weights of the {name} are not finite in: {', '.join(unfinished)}.")
    return model.eval()


def _write(path, content):
    """Write a file under its final name only when it is whole."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
