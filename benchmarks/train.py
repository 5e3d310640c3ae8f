"""How fast a model is trained, beside the bare loop on resident tensors: ``python -m benchmarks.train``.

Both see the same spectra in the same batches for the same number of epochs. The bare loop is forward, backward and a
step of Adam, and nothing else; `fit` also shuffles, clips gradients, validates, keeps the best weights and its curve.
"""

import torch

import astrolab as al
from astrolab.training import split_spectra
from benchmarks.timing import best_of_each, print_measured

N_WAVELENGTH = 1500
BATCH = 256


def main():
    """Print the rates and their ratio."""
    print_measured(measure, f"{{n_objects:,}} spectra of {N_WAVELENGTH} pixels", n_objects=8000, n_epochs=3)


def measure(n_objects, n_epochs=3):
    """Return rates (spectra/s) and their ratio.

    Parameters
    ----------
    n_objects : int
        Spectra, of which four fifths are trained on.
    n_epochs : int, optional
        Passes over them.

    Returns
    -------
    dict
        Name to number.
    """
    rest = resident_spectra(n_objects)
    is_train = split_spectra(rest["targetid"].values) == "train"
    flux, ivar = (torch.from_numpy(rest[name].values[is_train]) for name in ("flux", "ivar"))
    tasks = {
        "bare loop": lambda: _train_barely(flux, ivar, n_epochs),
        "fit": lambda: al.fit(
            al.VAE(n_wavelength=N_WAVELENGTH), rest, n_epochs=n_epochs, batch_size=BATCH, progress=False
        ),
    }
    spent = best_of_each(tasks)
    n_seen = n_epochs * len(flux)
    return {f"{name}, spectra/s": n_seen / one.wall for name, one in spent.items()} | {
        "share of the bare loop": spent["bare loop"].wall / spent["fit"].wall,
        "share of the bare loop, in processor time": spent["bare loop"].processor / spent["fit"].processor,
    }


def resident_spectra(n_objects):
    """Return spectra on a rest grid, in memory: a few hundred simulated ones again and again.

    Parameters
    ----------
    n_objects : int
        How many.

    Returns
    -------
    xarray.Dataset
    """
    few = al.simulate_survey(512, seed=0)
    few = al.normalize_flux(al.to_restframe(few, al.rest_grid(1000, 7500, N_WAVELENGTH))).compute()
    again = few.isel(object=[i % 512 for i in range(n_objects)])
    first = int(few["targetid"].values[0])
    return again.assign_coords(targetid=("object", range(first, first + n_objects), few["targetid"].attrs))


def _train_barely(flux, ivar, n_epochs):
    model = al.VAE(n_wavelength=N_WAVELENGTH)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(n_epochs):
        for start in range(0, len(flux), BATCH):
            optimizer.zero_grad()
            model.loss(flux[start : start + BATCH], ivar[start : start + BATCH]).mean().backward()
            optimizer.step()


if __name__ == "__main__":
    main()
