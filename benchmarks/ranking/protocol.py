"""The protocol: folds, contaminated training, lists at 5 % prevalence, and every ranker on every list."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context

import numpy as np
import torch
from tqdm.auto import tqdm

from astrolab.medians import median_snr
from astrolab.schema import OBJECT
from benchmarks.ranking.families import ARTEFACT, ASTRO, make_hosts
from benchmarks.ranking.rankers import PARTS, as_ranker, check_scores, together

PREVALENCE = 0.05
CONTROL = 0.0  # the dose of hosts that are counted as injected and are not: what their choice alone gives


@dataclass
class RankedList:
    """One list of objects and what each ranker says of them; both folds, put together by fractional rank.

    Attributes
    ----------
    name : tuple
        ``("real", seed)``, ``("injected", family, dose, replicate)`` or ``("mixed", replicate)``, as
        many replicates for each seed.
    truth : numpy.ndarray, shape (n_object,), str
        Class or family of each, '' for an ordinary one.
    group, targetid, redshift, snr, fold : numpy.ndarray, shape (n_object,)
        Whose spectrum it is, and what it looks like.
    score : dict of str to numpy.ndarray
        By ranker; larger = stranger, comparable within a fold only; NaN where it gave none.
    p_value : dict of str to numpy.ndarray
        Of the rankers that give one.
    """

    name: tuple
    truth: np.ndarray
    group: np.ndarray
    targetid: np.ndarray
    redshift: np.ndarray
    snr: np.ndarray
    fold: np.ndarray
    score: dict = field(default_factory=dict)
    p_value: dict = field(default_factory=dict)


def score_everything(sample, rankers, families, *, n_replicate=2, n_seed=5, n_processes=1, progress=True):
    """Fit every ranker on each fold and score the lists of the other.

    Parameters
    ----------
    sample : benchmarks.ranking.data.Sample
        Spectra with truth.
    rankers : dict of str to callable
        As `rankers.as_ranker` takes them.
    families : sequence of Family
        Injections.
    n_replicate : int, optional
        Lists of each family and dose.
    n_seed : int, optional
        Trainings of each ranker; each scores the real spectra and mixed lists of its own, the first the injections.
    n_processes : int, optional
        With 2, each fold has a process of its own; the figures are the same.
    progress : bool, optional
        Show a progress bar for each fold.

    Returns
    -------
    list of RankedList
    """
    jobs = [(sample, fold, rankers, families, n_replicate, n_seed, progress) for fold in (0, 1)]
    if n_processes > 1:
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            folds = list(pool.map(_score_fold, *zip(*jobs, strict=True)))
    else:
        folds = [_score_fold(*job) for job in jobs]
    return [_join(halves) for halves in zip(*folds, strict=True)]


def _score_fold(sample, fold, rankers, families, n_replicate, n_seed, progress):
    torch.set_num_threads(1)
    training = contaminated_training(sample, fold, families)
    tested, truth = sample.rows((sample.truth["fold"] == fold).to_numpy())
    n_lists = n_seed * (1 + n_replicate) + n_replicate * sum(len(family.doses) + 1 for family in families)
    lists, clean = [], None
    with tqdm(total=n_lists, desc=f"fold {fold}", position=fold, disable=not progress, mininterval=5) as bar:
        for seed in reversed(range(n_seed)):
            fitted = {name: as_ranker(plugin, seed) for name, plugin in rankers.items()}
            for ranker in fitted.values():
                ranker.fit(training)
            made = (tested, truth["truth"].to_numpy(), truth["group"].to_numpy())
            lists.append(_score_list(("real", seed), *made, fold, fitted))
            lists += [
                _score_list(*one, fold, fitted) for one in _mixed_lists(sample, fold, families, n_replicate, seed)
            ]
            bar.update(1 + n_replicate)
        for name, spectra, named, group in _injected_lists(sample, fold, families, n_replicate):
            if name[2:3] == (CONTROL,):  # the same spectra in every such list
                clean = clean or _score_list(name, spectra, named, group, fold, fitted)
                lists.append(replace(clean, name=name, truth=named))
            else:
                lists.append(_score_list(name, spectra, named, group, fold, fitted))
            bar.update()
    return lists


def contaminated_training(sample, fold, families, seed=0):
    """Return the training spectra for a fold, contaminated as a survey is.

    They are the ordinary ones of the other fold, of which 5 % are injected into; 5 % real rare ones and artefacts are
    added. Nothing says which.

    Parameters
    ----------
    sample : benchmarks.ranking.data.Sample
        Spectra with truth.
    fold : int
        The fold that is not to be seen.
    families : sequence of Family
        What contaminates, at any dose.
    seed : int, optional
        Seed of the draw.

    Returns
    -------
    xarray.Dataset
    """
    rng = np.random.default_rng([seed, fold, 1])
    other = (sample.truth["fold"] != fold).to_numpy()
    is_ordinary = (sample.truth["truth"] == "").to_numpy()
    ordinary, _ = sample.rows(other & is_ordinary)
    hosts = _hosts(ordinary, rng)
    n = _n_rare(len(hosts.flux))
    order = rng.permutation(len(hosts.flux))[:n]
    for row in order:
        possible = [one for one in families if one.redshift_min <= hosts.redshift[row] <= one.redshift_max]
        if not possible:
            continue
        family = possible[rng.integers(len(possible))]
        ordinary = inject(ordinary, hosts, np.array([row]), family, rng.choice(family.doses), rng)
    strange = np.flatnonzero(other & ~is_ordinary)
    chosen = np.zeros(len(other), bool)
    chosen[rng.permutation(strange)[:n]] = True
    return together(ordinary, sample.rows(chosen)[0])


def inject(spectra, hosts, rows, family, dose, rng):
    """Return the spectra with some of them injected into; S/N and redshift as a survey would record them.

    Parameters
    ----------
    spectra : xarray.Dataset
        Ordinary quasars, in memory.
    hosts : Hosts
        The same, prepared.
    rows : numpy.ndarray, int
        Which to inject into.
    family, dose, rng
        What, how much, and the source of the rest.

    Returns
    -------
    xarray.Dataset
    """
    flux, ivar, redshift = family.inject(hosts.rows(rows), dose, rng)
    values = {name: spectra[name].values.copy() for name in ("flux", "ivar", "redshift", "snr")}
    values["flux"][rows], values["ivar"][rows], values["redshift"][rows] = flux, ivar, redshift
    values["snr"][rows] = median_snr(values["flux"][rows], values["ivar"][rows])
    arrays = {name: (spectra[name].dims, values[name], spectra[name].attrs) for name in ("flux", "ivar")}
    columns = {name: (OBJECT, values[name]) for name in ("redshift", "snr")}
    return spectra.assign(arrays).assign_coords(columns)


def middle_dose(family):
    """Return the dose at which rankers are compared: the fourth of six."""
    return family.doses[len(family.doses) // 2]


def _ordinary(sample, fold):
    """Return the ordinary spectra of a fold, their groups, and what is injected into them."""
    ordinary, truth = sample.rows(((sample.truth["fold"] == fold) & (sample.truth["truth"] == "")).to_numpy())
    return ordinary, truth["group"].to_numpy(), _hosts(ordinary, np.random.default_rng([fold, 2]))


def _injected_lists(sample, fold, families, n_replicate):
    """Yield name, spectra, truth and group of every list of one fold with injections of one family."""
    ordinary, group, hosts = _ordinary(sample, fold)
    for number, family in enumerate(families):
        for replicate in range(n_replicate):
            rng = np.random.default_rng([fold, number, replicate, 3])
            rows = _draw_hosts(hosts, group, family, _n_rare(len(group)), rng)
            named = np.full(len(group), "", dtype="U32")
            named[rows] = family.name
            for dose in (CONTROL, *family.doses):
                # the same hosts and the same draws at every dose
                own = np.random.default_rng([fold, number, replicate, 4])
                spectra = inject(ordinary, hosts, rows, family, dose, own) if dose else ordinary
                yield ("injected", family.name, dose, replicate), spectra, named, group


def _mixed_lists(sample, fold, families, n_replicate, seed):
    """Yield name, spectra, truth and group of the lists with injections of every family, of one seed's own draws."""
    ordinary, group, hosts = _ordinary(sample, fold)
    for replicate in range(seed * n_replicate, (seed + 1) * n_replicate):
        yield ("mixed", replicate), *_mixed(ordinary, hosts, group, families, np.random.default_rng([fold, replicate]))


def _mixed(spectra, hosts, group, families, rng):
    """Inject every family at its middle dose: a fifth astrophysical, a fifth artefacts."""
    named = np.full(len(group), "", dtype="U32")
    for kind in (ASTRO, ARTEFACT):
        members = [family for family in families if family.kind == kind]
        for k in range(len(group) // 5 if members else 0):
            family = members[k % len(members)]
            free = (named == "") & (hosts.redshift >= family.redshift_min) & (hosts.redshift <= family.redshift_max)
            if free.any():
                row = rng.choice(np.flatnonzero(free), 1)
                spectra = inject(spectra, hosts, row, family, middle_dose(family), rng)
                named[row] = family.name
    return spectra, named, group


def _hosts(spectra, rng):
    arrays = [spectra[name].values for name in ("flux", "ivar", "wavelength", "redshift")]
    return make_hosts(*arrays, rng)


def _draw_hosts(hosts, group, family, n, rng):
    """Draw hosts of a family, no object twice."""
    rows = np.flatnonzero((hosts.redshift >= family.redshift_min) & (hosts.redshift <= family.redshift_max))
    rows = rng.permutation(rows)
    _, first = np.unique(group[rows], return_index=True)
    return rows[np.sort(first)][:n]


def _n_rare(n_object):
    return max(1, round(PREVALENCE * n_object))


def _score_list(name, spectra, truth, group, fold, rankers):
    targetid = spectra["targetid"].values
    columns = {key: spectra[key].values for key in ("redshift", "snr")}
    result = RankedList(name, truth.astype(str), group, targetid, fold=np.full(len(group), fold), **columns)
    for ranker_name, ranker in rankers.items():
        table = check_scores(ranker.score(spectra), ranker_name).set_index("targetid").reindex(targetid)
        result.score[ranker_name] = table["score"].to_numpy(float)
        if "p_value" in table:
            result.p_value[ranker_name] = table["p_value"].to_numpy(float)
        if ranker_name == "AstroLab":
            result.score |= {part: table[column].to_numpy(float) for part, column in PARTS.items() if column in table}
    return result


def _join(halves):
    """Put the lists of both folds together."""
    names = ("truth", "group", "targetid", "redshift", "snr", "fold")
    joined = {name: np.concatenate([getattr(half, name) for half in halves]) for name in names}
    scores = ({key: np.concatenate([getattr(half, what)[key] for half in halves]) for key in getattr(halves[0], what)}
              for what in ("score", "p_value"))  # fmt: skip
    return RankedList(halves[0].name, **joined, **dict(zip(("score", "p_value"), scores, strict=True)))
