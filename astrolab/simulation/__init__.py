"""A simulated survey: quasars, galaxies and stars, planted rare objects with truth, and a DESI-like instrument."""
