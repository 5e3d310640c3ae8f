"""What the explorer knows: a survey column by column, and each person's selection in it."""

from concurrent.futures import ThreadPoolExecutor
from secrets import token_hex
from threading import RLock
from typing import NamedTuple

import numpy as np
import pandas as pd
import param
import pyarrow as pa
import pyarrow.parquet as pq

from astrolab.dashboards.explorer_grid import count_cells, within_polygon
from astrolab.dashboards.explorer_sky import healpix_pixels, pixel_density
from astrolab.plots.rankings import latent_positions

N_OBJECTS = "number of objects"  # what a map may be coloured by, beside columns
SCALES = ("linear", "logarithmic", "equalised")
_KINDS = "biuf"
_UNITS = {"ra": "deg", "dec": "deg", "wavelength": "Å", "width": "km/s", "sigma": "σ"}
_NAMES = {"snr": "S/N", "snr_rest": "S/N, rest frame", "ra": "RA", "dec": "Dec", "chi2": "χ² per pixel"}
_N_HANDED = 1000  # selections that are kept for the vetting page, the latest


class Survey:
    """The ranked objects of a run; every page of a server shares one. A column is read when it is first asked for.

    Parameters
    ----------
    table : path-like or pandas.DataFrame
        A run's ``ranking.parquet``, or the same in memory.

    Attributes
    ----------
    n_objects : int
        In the ranking.
    columns : list of str
        The columns of numbers, but for targetid.
    offered : numpy.ndarray of int64
        The targetids that the vetting page can show; empty where there is no such page.

    Raises
    ------
    ValueError
        If it is not a ranking.
    """

    def __init__(self, table, offered=()):
        self._table = table
        self._kept, self._handed, self._lock = {}, {}, RLock()
        self.offered = np.asarray(offered, "int64")
        if isinstance(table, pd.DataFrame):
            self.n_objects = len(table)
            self.columns = [name for name in table if table[name].dtype.kind in _KINDS]
            self._texts = [name for name in table if name not in self.columns]
        else:
            with pq.ParquetFile(table) as file:
                self.n_objects, schema = file.metadata.num_rows, file.schema_arrow
            self.columns = [field.name for field in schema if _is_number(field.type)]
            self._texts = [name for name in schema.names if name not in self.columns]
        if "targetid" not in self.columns or "anomaly_rank" not in self.columns:
            missing = "targetid" if "targetid" not in self.columns else "anomaly_rank"
            raise ValueError(f"the ranking has no {missing!r}, expected ranking.parquet as rank_anomalies saves it.")
        self.columns.remove("targetid")

    def column(self, name):
        """Return a column of numbers, float32, as it is drawn; NaN where it is not known."""
        return self._once(name, lambda: np.ascontiguousarray(self._read(name), "float32"))

    def prefetch(self):
        """Read in the background what the first page shows; a failure shows when it is asked for."""

        def read():
            for name in {"anomaly_score", "anomaly_rank", "ra", "dec"} & set(self.columns):
                self.column(name)
            # on a machine where it is not compiled yet, that takes seconds
            count_cells(*np.zeros((3, 1), "float32"), np.ones(1, bool), (0, 1, 0, 1), (1, 1))
            return self.places, self.pixels, self.is_offered

        ThreadPoolExecutor(1, thread_name_prefix="survey").submit(read)

    @property
    def targetid(self):
        """The targetid of each object, int64."""
        return self._once("targetid", lambda: np.ascontiguousarray(self._read("targetid"), "int64"))

    @property
    def places(self):
        """Where each object lies on the latent map: x, y (float32) and the words of the axes; None without latents."""
        return self._once("the map", self._project)

    @property
    def pixels(self):
        """The healpix pixel of each object, see `healpix_pixels`; None without positions on the sky."""
        has_sky = {"ra", "dec"} <= set(self.columns)
        return self._once("the sky", lambda: healpix_pixels(self._read("ra"), self._read("dec")) if has_sky else None)

    def density(self, order):
        """Return the density of all objects in every healpix pixel, see `pixel_density`."""
        return self._once(("density", order), lambda: pixel_density(self.pixels, order))

    def n_in_pixel(self, order):
        """Return how many objects a healpix pixel holds on average, of those that hold any."""
        n_known = np.count_nonzero(self.pixels >= 0)
        return n_known / max(np.count_nonzero(np.isfinite(self.density(order))), 1)

    def edges(self, name, n_bins, is_log=False):
        """Return the edges of a column's histogram; the outer ones hold every object that can be shown."""
        return self._once((name, n_bins, is_log), lambda: _bin_edges(self.column(name), n_bins, is_log))

    def bins(self, name, n_bins, is_log=False):
        """Return the bin of each object in that histogram, uint8; `n_bins` where it is in none."""
        return self._once(("bin", name, n_bins), lambda: _bin(self.column(name), self.edges(name, n_bins, is_log)))

    @property
    def is_offered(self):
        """Whether the vetting page can show each object, bool."""
        return self._once("offered", lambda: pd.Index(self.targetid).isin(self.offered))

    def rows(self, keep, names):
        """Return some columns of the selected objects, exact as they are in the ranking.

        Parameters
        ----------
        keep : numpy.ndarray of bool, shape (n_object,)
            Which objects.
        names : sequence of str
            Columns; those that the ranking does not have are left out.

        Returns
        -------
        pandas.DataFrame
        """
        names = [name for name in names if name in ("targetid", *self.columns, *self._texts)]
        if isinstance(self._table, pd.DataFrame):
            return self._table.loc[keep, names].reset_index(drop=True)
        return pq.read_table(self._table, columns=names).filter(pa.array(keep)).to_pandas()

    def hand_over(self, targetids):
        """Keep some objects for the vetting page, and return the word by which it asks for them."""
        word = token_hex(8)
        self._handed[word] = frozenset(targetids.tolist())
        for oldest in list(self._handed)[:-_N_HANDED]:
            del self._handed[oldest]
        return word

    def handed_over(self, word):
        """Return the targetids that were handed over under a word; None where it is not known."""
        return self._handed.get(word)

    def _read(self, name):
        if isinstance(self._table, pd.DataFrame):
            return self._table[name].to_numpy()
        return pq.read_table(self._table, columns=[name])[name].to_numpy()

    def _once(self, what, make):
        with self._lock:  # pages wait for what is being read already
            if what not in self._kept:
                self._kept[what] = make()
            return self._kept[what]

    def _project(self):
        names = [name for name in self.columns if name.startswith("latent_")]
        if not names or not self.n_objects:
            return None
        table, labels = latent_positions(pd.DataFrame({name: self._read(name) for name in names}))
        x, y = (np.ascontiguousarray(table[name], "float32") for name in ("latent_x", "latent_y"))
        return x, y, labels


class Box(NamedTuple):
    """A rectangle that was drawn; its corners, in any order."""

    x0: float
    x1: float
    y0: float
    y1: float

    def holds(self, x, y):
        """Return which points lie in it."""
        return _between(x, self.x0, self.x1) & _between(y, self.y0, self.y1)


class Lasso(NamedTuple):
    """A polygon that was drawn."""

    x: tuple
    y: tuple

    def holds(self, x, y):
        """Return which points lie in it."""
        return within_polygon(x, y, self.x, self.y)


class ExplorerState(param.Parameterized):
    """A person's selection in a survey: objects that lie within every limit. Views watch it, and change it.

    Parameters
    ----------
    survey : Survey
        The survey, shared.

    Attributes
    ----------
    limits : dict
        ``"map"`` and ``"sky"`` -> `Box` or `Lasso`; the name of a column -> (low, high).
    color, scale : str
        What the map is coloured by, and how: one of ``SCALES``.
    keep : numpy.ndarray of bool, shape (n_object,)
        The selection.
    """

    limits = param.Dict(default={})
    color = param.String(default=N_OBJECTS)
    scale = param.Selector(default="linear", objects=list(SCALES))

    def __init__(self, survey):
        super().__init__()
        self.survey, self._before, self._masks = survey, [], {}
        self.keep = np.ones(survey.n_objects, bool)
        if "anomaly_score" in survey.columns:
            self.color = "anomaly_score"

    @property
    def n_selected(self):
        """How many objects are selected."""
        return int(np.count_nonzero(self.keep))

    @property
    def may_undo(self):
        """Whether there is something to undo."""
        return bool(self._before)

    def limit(self, name, to):
        """Limit the selection, on top of the other limits; None takes the limit of that name off.

        Raises
        ------
        ValueError
            If there is no such column.
        """
        if name not in ("map", "sky", *self.survey.columns):
            raise ValueError(f"there is no column {name!r} of numbers, expected one that the ranking has.")
        if to is not None and name not in ("map", "sky"):
            to = (min(to), max(to))
        rest = {key: value for key, value in self.limits.items() if key != name}
        self._go_to(rest if to is None else rest | {name: to})

    def clear(self):
        """Take every limit off."""
        self._go_to({})

    def undo(self):
        """Go back to the selection before."""
        if self._before:
            self._select(self._before.pop())

    def words(self):
        """Return the limits in words, one each."""
        drawn = {"map": "drawn on the map", "sky": "drawn on the sky"}
        return [drawn.get(name) or _range_words(column_words(name), *to) for name, to in self.limits.items()]

    def _go_to(self, limits):
        if limits != self.limits:
            self._before.append(self.limits)
            self._select(limits)

    def _select(self, limits):
        keep = np.ones(self.survey.n_objects, bool)
        self._masks = {name: self._mask(name, to) for name, to in limits.items()}
        for _, mask in self._masks.values():
            keep &= mask
        self.keep = keep
        self.limits = limits

    def _mask(self, name, to):
        if name in self._masks and self._masks[name][0] == to:
            return self._masks[name]
        if name == "map":
            return to, to.holds(*self.survey.places[:2])
        if name == "sky":
            return to, to.holds(self.survey.column("ra"), self.survey.column("dec"))
        return to, _between(self.survey.column(name), *to)


def column_words(name):
    """Return a column's name for people, with its unit.

    Examples
    --------
    >>> column_words("trough_wavelength"), column_words("snr"), column_words("ra")
    ('trough wavelength (Å)', 'S/N', 'RA (deg)')
    """
    unit = _UNITS.get(name.rsplit("_", 1)[-1])
    return _NAMES.get(name, name.replace("_", " ")) + (f" ({unit})" if unit else "")


def _range_words(name, low, high):
    if np.isinf(high):
        return f"{name} from {low:.4g}"
    return f"{name} up to {high:.4g}" if np.isinf(low) else f"{name} {low:.4g} to {high:.4g}"


def _is_number(kind):
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _between(values, low, high):
    low, high = sorted((low, high))
    return (values >= low) & (values <= high)


def _bin_edges(values, n_bins, is_log):
    known = values[np.isfinite(values) & ((values > 0) | (not is_log))]
    if not len(known):
        return None
    low, high = float(known.min()), float(known.max())
    if is_log:
        low = max(low, 1e-3 * high)
        return np.geomspace(low, max(high, 1.01 * low), n_bins + 1)
    return np.linspace(low, high if high > low else low + 1, n_bins + 1)


def _bin(values, edges):
    """Return the bin of each value; the first holds what is below it too, the last its upper edge."""
    n_bins = len(edges) - 1
    inner = edges[1:-1].astype("float32")
    bins = np.searchsorted(inner, values, side="right").astype("uint8")
    bins[~np.isfinite(values)] = n_bins
    return bins
