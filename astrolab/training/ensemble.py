"""Several models trained at the same time, each by a core or a GPU of the cluster."""

import os
import queue
from collections import Counter, deque
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import torch
from distributed import CancelledError, Event, Future, KilledWorker, get_client, get_worker
from distributed.comm import CommClosedError
from tqdm.auto import tqdm

from astrolab.schema import check_spectra
from astrolab.stores.passes import SCHEDULER_GONE, patiently, scheduler_answers
from astrolab.training.loop import check_grid, fit
from astrolab.training.sample import load_training

_TOPIC = "astrolab-trainings"
_N_DEATHS_MAX = 5


class _Training(NamedTuple):
    """One model, and what `fit` is called with."""

    number: int
    model: torch.nn.Module
    options: dict


def fit_models(
    models,
    spectra,
    *,
    seeds=None,
    checkpoint_dir=None,
    n_epochs=50,
    n_train=20_000,
    n_workers=1,
    progress=True,
    **options,
):
    """Train several models on spectra, in place, each on one worker of the Dask cluster in use, many at a time.

    The survey is read once for all of them (`load_training`). Each is trained with one thread, or on the worker's GPU:
    the weights are the same on a laptop and on a large machine, whatever the number of workers. A model whose worker
    dies is trained on by another, from its checkpoint. Without a cluster, or where the workers do not see
    `checkpoint_dir`, models are trained here, one after the other, to the same weights.

    Parameters
    ----------
    models : sequence of torch.nn.Module
        As for `fit`.
    spectra : xarray.Dataset
        As for `fit`.
    seeds : sequence of int, optional
        That of each training; by default 0, 1, ….
    checkpoint_dir : path-like, optional
        Folder of checkpoints, ``training_0.chunk``, …; when they exist, trainings go on from them.
    n_epochs, n_train : int, optional
        As for `fit`.
    n_workers : int, optional
        Dask workers that train each model together, one model after the other, as in `fit`; 1 trains as said above.
    progress : bool, optional
        Show a progress bar.
    **options
        ``batch_size``, ``learning_rate``, ``patience``, ``device``, as for `fit`.

    Returns
    -------
    list of pandas.DataFrame
        The loss curve of each, as `fit` gives it.

    Raises
    ------
    SchemaError, ValueError
        As `fit`, or if there are not as many seeds as models.
    ConnectionError
        If the scheduler goes away, or workers die again and again; with checkpoints, the same call goes on.

    Examples
    --------
    >>> import astrolab as al
    >>> rest = al.normalize_flux(al.to_restframe(al.simulate_survey(40, seed=0), al.rest_grid(1216, 2900, 100)))
    >>> models = [al.VAE(n_wavelength=100, seed=seed) for seed in (0, 1)]
    >>> [len(history) for history in al.fit_models(models, rest, n_epochs=2, progress=False)]
    [2, 2]
    """
    models, seeds = list(models), list(range(len(models)) if seeds is None else seeds)
    if len(seeds) != len(models):
        raise ValueError(f"there are {len(seeds)} seeds for {len(models)} models, expected one each.")
    check_spectra(spectra)
    for model in models:  # before the survey is read
        check_grid(model, spectra)
    folder = None if checkpoint_dir is None else Path(checkpoint_dir).absolute()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    training = load_training(spectra, n_train=n_train, seeds=seeds)
    trainings = []
    for number, (model, seed) in enumerate(zip(models, seeds, strict=True)):
        path = None if folder is None else folder / f"training_{number}.chunk"
        own = {"seed": seed, "n_epochs": n_epochs, "n_train": n_train, "checkpoint_path": path, **options}
        trainings.append(_Training(number, model, own))
    if n_workers != 1:
        return [fit(one.model, training, n_workers=n_workers, progress=progress, **one.options) for one in trainings]
    client = _find_client(folder)
    histories = {}
    with _Bar(len(models), n_epochs, disable=not progress) as bar:
        done = (
            _train_here(trainings, training, bar) if client is None else _train_there(client, trainings, training, bar)
        )
        for number, history in done:
            histories[number] = history
            bar.finish(number, n_epochs)
    return [histories[one.number] for one in trainings]


class _Bar(tqdm):
    """Epochs of all models; one that stops early has none left."""

    def __init__(self, n_models, n_epochs, **options):
        what = "training" if n_models == 1 else f"training {n_models} models"
        super().__init__(total=n_models * n_epochs, desc=what, unit="epoch", mininterval=1, **options)
        self.seen = Counter()

    def hear(self, message):
        number, epoch, loss_train, loss_valid = message
        self.set_postfix(loss=f"{loss_train:.4g}", valid=f"{loss_valid:.4g}", refresh=False)
        # after a crash epochs are trained again that were seen before
        self.update(max(epoch - self.seen[number], 0))
        self.seen[number] = max(epoch, self.seen[number])

    def finish(self, number, n_epochs):
        self.update(n_epochs - self.seen[number])
        self.seen[number] = n_epochs


def _find_client(folder):
    """Return the client of a cluster that can train: workers in processes of their own, which see the folder."""
    try:
        client = get_client()
    except ValueError:
        return None
    pids = list(client.run(os.getpid).values())
    sees_folder = folder is None or all(client.run(os.path.isdir, str(folder)).values())
    # two trainings in one process would draw from the same random numbers
    return client if pids and sees_folder and len(pids) == len(set(pids)) and os.getpid() not in pids else None


def _train_here(trainings, spectra, bar):
    for one in trainings:
        yield one.number, _with_one_thread(one, spectra, bar.hear)


def _train_there(client, trainings, spectra, bar):
    """Train each on a worker that nothing else trains on; yield number and curve of each as it comes."""
    waiting, running, n_deaths = deque(trainings), {}, Counter()
    # futures that are done, and what trainings say: a kernel shows nothing of what another thread prints
    news, stop = queue.SimpleQueue(), f"astrolab-stop-{uuid4().hex}"
    client.subscribe_topic(_TOPIC, lambda event: news.put(event[1]))
    try:
        while waiting or running:
            for worker in _idle_workers(client, running)[: len(waiting)]:
                one = waiting.popleft()
                future = _start(client, worker, one, spectra, stop)
                running[future] = one, worker
                future.add_done_callback(news.put)
            if not running:
                patiently(partial(client.wait_for_workers, 1), client)
                continue
            item = patiently(news.get, client)
            if isinstance(item, Future):
                one, _ = running.pop(item)
                history = _take_home(one, item, n_deaths)
                if history is None:
                    waiting.append(one)
                else:
                    yield one.number, history
            elif item[0] == stop:
                bar.hear(item[1:])
    finally:
        if client.status == "running":
            with suppress(OSError, TimeoutError, ValueError):  # it may go away now
                if running:
                    Event(stop, client=client).set()
                    client.cancel(list(running))
                client.unsubscribe_topic(_TOPIC)


def _idle_workers(client, running):
    busy = {worker for _, worker in running.values()}
    with scheduler_answers():
        return sorted(set(client.nthreads()) - busy)


def _take_home(one, future, n_deaths):
    """Give the model the weights that a worker trained, and return the curve; None where the worker died."""
    try:
        weights, history = future.result()
    except (KilledWorker, CancelledError) as error:
        n_deaths[one.number] += 1
        if n_deaths[one.number] > _N_DEATHS_MAX:
            raise ConnectionError(
                f"{n_deaths[one.number]} Dask workers died while they trained a model; what is finished is kept: run "
                "the same again."
            ) from error
        return None
    except CommClosedError as error:  # it went away while it answered
        raise ConnectionError(SCHEDULER_GONE) from error
    one.model.load_state_dict(weights)
    one.model.to("cpu").eval()
    return history


def _start(client, worker, one, spectra, stop):
    own = load_training(spectra, n_train=one.options["n_train"], seeds=[one.options["seed"]])
    with scheduler_answers():
        sent = client.scatter(own, workers=[worker], hash=False)
        return client.submit(_train_as_told, one, sent, stop, workers=[worker], pure=False)


def _train_as_told(one, spectra, stop):
    """In a worker."""

    def told(message):
        get_worker().log_event(_TOPIC, [stop, *message])
        if Event(stop).is_set():
            raise InterruptedError("the trainings were stopped.")

    history = _with_one_thread(one, spectra, told)
    return one.model.state_dict(), history


def _with_one_thread(one, spectra, told):
    """Train with one thread: with several, the sums of matrix products come in another order."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return fit(one.model, spectra, progress=lambda epoch: told([one.number, *epoch]), **one.options)
    finally:
        torch.set_num_threads(n_threads)
