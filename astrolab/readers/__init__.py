"""Survey readers: one survey, one file, one function that ends in `check_spectra`."""
