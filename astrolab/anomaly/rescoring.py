"""Rescoring: the score that spectra would have had, had some of their pixels not been observed."""

import numpy as np
import pandas as pd

from astrolab.anomaly.faults import FAULT_COLUMNS
from astrolab.anomaly.scale import place_on_scale
from astrolab.anomaly.scores import as_members, block_columns, score_block
from astrolab.models.files import model_to_bytes
from astrolab.pixel_faults import PIXEL_COLUMNS


class Rescorer:
    """Scores arrays of pixels with the models and on the scale of a survey, in this process.

    The numbers are those of `score_anomalies`, from the same code.

    Parameters
    ----------
    models : torch.nn.Module or sequence of them
        Those that scored the survey.
    scale : Scale
        The survey's.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Rest vacuum wavelength, Å.
    """

    def __init__(self, models, scale, wavelength):
        self.members = as_members(models)
        packed = [model_to_bytes(model) for model in self.members]
        self._packed = [described for described, _ in packed], [weights for _, weights in packed]
        self._columns = block_columns(packed[0][0][1]["n_latent"], len(packed))
        self.scale, self.wavelength = scale, np.asarray(wavelength, "float64")

    def raw(self, flux, ivar, redshift, pixel_faults=None):
        """Return raw scores.

        Parameters
        ----------
        flux, ivar : numpy.ndarray, shape (object, n_wavelength)
            Normalised flux and inverse variance; pixels with ``ivar == 0`` count for nothing.
        redshift : numpy.ndarray, shape (object,)
        pixel_faults : numpy.ndarray, shape (object, 3), optional
            From `find_pixel_faults`; by default nothing was found.

        Returns
        -------
        pandas.DataFrame
            As `raw_scores` gives it, with ``redshift``.
        """
        pixel_faults = np.zeros((len(flux), len(PIXEL_COLUMNS)), "float32") if pixel_faults is None else pixel_faults
        block = score_block(flux, ivar, redshift[:, None], pixel_faults, self.wavelength, *self._packed)
        return pd.DataFrame(block, columns=self._columns).assign(redshift=redshift)

    def place(self, raw):
        """Place raw scores on the scale, as `place_on_scale` does."""
        return place_on_scale(self.scale, raw)

    def score_without(self, flux, ivar, raw, is_removed):
        """Return the anomaly_score of spectra without some of their pixels.

        They are compared with the peers of the whole spectrum. The number of good pixels follows from the redshift in
        most surveys, so that a spectrum with fewer has no peers: its score would be an extrapolation. What a fault
        explains is that of the whole spectrum, too: one that appears where pixels are taken away is none. And what
        observed pixels said stays said.

        Parameters
        ----------
        flux, ivar : numpy.ndarray, shape (object, n_wavelength)
            As for `raw`.
        raw : pandas.DataFrame
            Raw scores of the whole spectra.
        is_removed : numpy.ndarray, shape (object, n_wavelength), bool
            Pixels taken as not observed.

        Returns
        -------
        numpy.ndarray, shape (object,)
        """
        names = ("redshift", "snr_rest", "n_good", *FAULT_COLUMNS, *PIXEL_COLUMNS)
        matched = {name: raw[name].to_numpy() for name in names}
        without = self.raw(flux, np.where(is_removed, 0, ivar).astype("float32"), matched["redshift"])
        return self.place(without.assign(**matched))["anomaly_score"].to_numpy()
