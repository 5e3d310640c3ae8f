"""The DESI wavelength grid: 7781 pixels of 0.8 Å, and the three cameras that cover it."""

import numpy as np

N_WAVELENGTH = 7781
WAVELENGTH_FIRST = 3600.0
WAVELENGTH_STEP = 0.8
LINE_SPREAD = 0.75  # Å, sigma; R = 2000 in the blue to 5500 in the red (DESI Collaboration 2022, AJ 164, 207)
WAVELENGTH = WAVELENGTH_FIRST + WAVELENGTH_STEP * np.arange(N_WAVELENGTH)
WAVELENGTH.flags.writeable = False

# first and one-past-last pixel on the grid: B 3600-5800, R 5760-7620, Z 7520-9824 Å
CAMERAS = {"b": slice(0, 2751), "r": slice(2700, 5026), "z": slice(4900, 7781)}
