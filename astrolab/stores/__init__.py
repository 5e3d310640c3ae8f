"""Stores: spectra (Zarr) and the catalog of labels (SQL)."""
