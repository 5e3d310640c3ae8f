"""Kinds of stars from first principles: black bodies behind the lines and bands that their gas must have.

Where `astrolab.simulation.stars` has one spectrum for each class of the main sequence, here are the stars beside it:
white dwarfs of every composition (hydrogen, helium, carbon, metals, none), hot stars, red dwarfs and subdwarfs, carbon
stars, brown dwarfs, accreting binaries, and pairs of a white and a red dwarf. A kind is a distribution: temperature,
abundances and pressure are drawn. No model atmospheres: continuum, lines and bands lie where they must and are about as
strong as they are seen.

References
----------
Lines: NIST Atomic Spectra Database. Bands of TiO, VO, CaH, MgH: Bochanski et al. (2007, AJ 133, 531) and Lépine et al.
(2007, ApJ 669, 1235); C2 (Swan) and CN: Pearse & Gaydon (1976), Barnbaum et al. (1996, ApJS 105, 419); white dwarfs:
Wesemael et al. (1993, PASP 105, 761); brown dwarfs: Kirkpatrick et al. (1999, ApJ 519, 802); cataclysmic variables:
Szkody et al. (2002, AJ 123, 430).
"""

import numpy as np
from scipy.special import expit

from astrolab.simulation.galaxies import balmer_absorption
from astrolab.simulation.stars import _METAL_LINES

# rest vacuum wavelengths in Å and relative strengths
_HELIUM = ((3820.7, 0.5), (3889.7, 0.8), (4027.3, 0.8), (4145.0, 0.3), (4389.2, 0.4), (4472.7, 1.0), (4714.5, 0.4),
           (4923.3, 0.6), (5017.1, 0.5), (5877.2, 1.0), (6680.0, 0.6), (7067.1, 0.5))  # fmt: skip
_IONISED_HELIUM = ((4201.0, 0.3), (4542.9, 0.5), (4687.0, 1.0), (5413.0, 0.6))
_BALMER = ((6564.6, 1.0), (4862.7, 0.8), (4341.7, 0.6), (4102.9, 0.45), (3971.2, 0.35), (3890.2, 0.3))
# a polluted white dwarf: Ca II, Ca I, Mg I, Fe I, Na I
_POLLUTION = (
    (3934.8, 1.2),
    (3969.6, 1.0),
    (4227.9, 0.35),
    (3835.0, 0.25),
    (5176.6, 0.2),
    (5271.0, 0.08),
    (5893.6, 0.1),
)
# bands: (head in Å, optical depth, e-folding length in Å, positive to the red of the head)
_TITANIUM_OXIDE = (
    (4763, 0.30, 70), (4806, 0.15, 70), (4956, 0.45, 90), (5001, 0.25, 90), (5168, 0.45, 80), (5212, 0.15, 80),
    (5450, 0.35, 80), (5499, 0.20, 80), (5532, 0.10, 80), (5761, 0.15, 60), (5849, 0.35, 90), (5863, 0.10, 90),
    (5930, 0.10, 90), (6160, 0.40, 90), (6190, 0.15, 90), (6215, 0.15, 90), (6240, 0.10, 90), (6270, 0.10, 90),
    (6653, 0.25, 80), (6683, 0.12, 80), (6719, 0.20, 80), (6750, 0.12, 80), (6784, 0.15, 80), (6817, 0.10, 80),
    (6854, 0.10, 80), (7055, 0.35, 90), (7089, 0.25, 90), (7127, 0.30, 90), (7160, 0.15, 90), (7199, 0.15, 90),
    (7270, 0.10, 90), (7591, 0.30, 110), (7630, 0.15, 110), (7668, 0.20, 110), (7707, 0.10, 110), (7745, 0.10, 110),
    (8206, 0.15, 60), (8252, 0.08, 60), (8434, 0.30, 120), (8444, 0.10, 120), (8515, 0.10, 120), (8861, 0.20, 120),
    (8940, 0.08, 120), (9210, 0.10, 80),
)  # fmt: skip
_CALCIUM_HYDRIDE = ((6348, 0.15, 25), (6384, 0.30, 25), (6757, 0.45, 90), (6830, 0.35, 60), (6948, 0.45, 60))
_MAGNESIUM_HYDRIDE = ((5212, 0.5, -120), (4846, 0.15, -60), (5622, 0.10, -50))
_VANADIUM_OXIDE = ((7336, 0.30, 120), (7853, 0.40, 120), (8521, 0.20, 100))
_METAL_HYDRIDE = ((8611, 0.35, 60), (8694, 0.40, 80), (9897, 0.7, 150), (9300, 0.35, 300))  # CrH, FeH; water
_SWAN = ((4384, 0.3, -50), (4738, 1.0, -80), (5166, 1.4, -110), (5637, 0.9, -130), (6193, 0.35, -120))
_CYANOGEN = (
    (3884, 1.0, -80), (4217, 0.5, -70), (5731, 0.10, 70), (6480, 0.15, 60), (6633, 0.12, 60), (6928, 0.30, 80),
    (7090, 0.30, 80), (7261, 0.30, 80), (7439, 0.25, 90), (7878, 0.40, 80), (8069, 0.45, 90), (8273, 0.45, 120),
    (9143, 0.50, 140),
)  # fmt: skip
_METHYLIDYNE = ((4314, 0.9, -50), (3890, 0.3, -40))
_ALKALI = ((5891.6, 0.8, 6), (5897.6, 0.8, 6), (7667, 0.9, 8), (7701, 0.8, 8), (8185.5, 0.4, 3), (8197.1, 0.5, 3))
_N_WEAK = 600  # lines of iron and its kin between the strong ones


def draw_stars(kind, wavelength, n_object, rng):
    """Draw stars of one kind.

    Parameters
    ----------
    kind : str
        One of `STELLAR_KINDS`.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Rest frame, vacuum, Å.
    n_object : int
        How many.
    rng : numpy.random.Generator
        Source of temperatures, strengths and widths.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength), float64
        Noiseless flux per Å relative to its median.

    Raises
    ------
    ValueError
        If there is no such kind.

    Examples
    --------
    >>> draw_stars("DA", np.linspace(3600, 9800, 500), 2, np.random.default_rng(0)).shape
    (2, 500)
    """
    if kind not in _KINDS:
        raise ValueError(f"there is no kind of stars '{kind}', expected one of {', '.join(STELLAR_KINDS)}.")
    flux = np.stack([_KINDS[kind](wavelength, rng) for _ in range(n_object)])
    return flux / np.median(flux, axis=1, keepdims=True)


def _hot(wavelength, rng):
    """O and B stars and hot subdwarfs: narrow Balmer lines, He I, and He II in the hottest."""
    temperature = 10 ** rng.uniform(np.log10(13000), np.log10(45000))
    light = _black_body(wavelength, temperature)
    light *= balmer_absorption(wavelength, rng.uniform(0.15, 0.7), rng.uniform(4, 11), int(rng.integers(12, 17)))
    ionised = expit((temperature - 30000) / 3000) * rng.uniform(0.1, 0.5)
    depth = _lines(wavelength, _HELIUM, rng.uniform(0.05, 0.5), rng.uniform(2.5, 5))
    return light * np.exp(-depth - _lines(wavelength, _IONISED_HELIUM, ionised, rng.uniform(2.5, 6)))


def _hydrogen_dwarf(wavelength, rng):
    """DA: Balmer lines broadened by pressure, strongest near 12,000 K, whose upper levels dissolve."""
    temperature = 10 ** rng.uniform(np.log10(6000), np.log10(40000))
    strength = 1.25 * np.exp(-0.5 * (np.log(temperature / 12500) / 0.55) ** 2) + 0.15
    width = rng.uniform(16, 42) * (0.6 + 0.4 * min(strength, 1))
    light = _black_body(wavelength, temperature)
    return light * balmer_absorption(wavelength, strength * rng.uniform(0.8, 1.2), width, int(rng.integers(7, 10)))


def _helium_dwarf(wavelength, rng):
    """DB: He I broadened by pressure; traces of hydrogen."""
    light = _black_body(wavelength, rng.uniform(11500, 30000))
    light *= balmer_absorption(wavelength, rng.choice([0, rng.uniform(0, 0.25)]), rng.uniform(12, 25), 8)
    return light * np.exp(-_lines(wavelength, _HELIUM, rng.uniform(0.15, 0.9), rng.uniform(8, 22)))


def _featureless_dwarf(wavelength, rng):
    """DC: helium too cool for lines."""
    return _black_body(wavelength, 10 ** rng.uniform(np.log10(3600), np.log10(11000)))


def _carbon_dwarf(wavelength, rng):
    """DQ: the Swan bands of C2 in helium, blurred by its pressure."""
    light = _black_body(wavelength, rng.uniform(5000, 10000))
    return light * np.exp(-_bands(wavelength, _SWAN, 10 ** rng.uniform(-1, 0.1), rng.uniform(5, 40)))


def _metal_dwarf(wavelength, rng):
    """DZ: Ca II H and K, wide as pressure makes them, and weaker lines of other metals."""
    light = _black_body(wavelength, rng.uniform(4500, 11000))
    depth = _lines(wavelength, _POLLUTION, 10 ** rng.uniform(-0.5, 0.5), rng.uniform(6, 50), wing=0.5)
    return light * np.exp(-depth)


def _red_dwarf(wavelength, rng):
    """M dwarfs: TiO and, in the latest, VO; Hα in emission in many."""
    temperature = rng.uniform(2300, 3900)
    coolness = (3900 - temperature) / 1600
    oxide = (0.3 + 2.2 * coolness) * rng.uniform(0.7, 1.3)
    light = _molecular(wavelength, temperature, oxide, (0.3 + 0.8 * coolness) * rng.uniform(0.6, 1.6), rng)
    light *= np.exp(-_bands(wavelength, _VANADIUM_OXIDE, 1.2 * np.clip(coolness - 0.5, 0, 1) * rng.uniform(0.5, 1.5)))
    return _with_emission(wavelength, light, _BALMER[:4], rng.choice([0.0, rng.uniform(0.1, 1.5)]), 2.5)


def _red_subdwarf(wavelength, rng):
    """M subdwarfs: of few metals, hence hydrides without oxides (Lépine et al. 2007)."""
    return _molecular(wavelength, rng.uniform(2900, 3900), rng.uniform(0, 0.9), rng.uniform(0.6, 2.4), rng)


def _molecular(wavelength, temperature, oxide, hydride, rng):
    metals = rng.uniform(0.5, 1.2)
    depth = _bands(wavelength, _TITANIUM_OXIDE, oxide) + _bands(wavelength, _CALCIUM_HYDRIDE, hydride)
    depth += _bands(wavelength, _MAGNESIUM_HYDRIDE, rng.uniform(0.3, 1.3))
    alkali = rng.uniform(0.4, 1.3)
    for centre, strength, sigma in _ALKALI:
        depth += _lines(wavelength, ((centre, strength),), alkali, sigma * rng.uniform(0.7, 1.5))
    return _black_body(wavelength, temperature) * _blanket(wavelength, metals, rng) * np.exp(-depth)


def _brown_dwarf(wavelength, rng):
    """L dwarfs: K I so wide that it takes the light about 7700 Å, hydrides in place of oxides."""
    light = _black_body(wavelength, rng.uniform(1500, 2400))
    depth = _lines(wavelength, ((7684.0, 1.0),), rng.uniform(0.8, 3), rng.uniform(20, 120), wing=0.5)
    depth += _lines(wavelength, ((5893.6, 1.0),), rng.uniform(1, 3), rng.uniform(50, 200), wing=0.5)
    depth += _lines(wavelength, ((8523.5, 0.4), (8945.9, 0.35), (7802.4, 0.5), (7949.8, 0.5)), rng.uniform(0.3, 1.5), 4)
    depth += _bands(wavelength, _METAL_HYDRIDE, rng.uniform(0.3, 1.4))
    return light * np.exp(-depth - _bands(wavelength, _TITANIUM_OXIDE[-8:], rng.uniform(0, 1)))


def _carbon_star(wavelength, rng):
    """Carbon stars, dwarf and giant: C2 and CN take the place of oxides; Na D, and CH where it is warm."""
    light = _black_body(wavelength, rng.uniform(3000, 5600)) * _blanket(wavelength, rng.uniform(0.2, 1.2), rng)
    depth = _bands(wavelength, _SWAN, 10 ** rng.uniform(-0.9, 0.2), 4) + _bands(
        wavelength, _CYANOGEN, rng.uniform(0.1, 2)
    )
    depth += _bands(wavelength, _METHYLIDYNE, rng.uniform(0.2, 1.6), 6)
    return light * np.exp(-depth - _lines(wavelength, ((5893.6, 1.0),), rng.uniform(0.2, 1.5), rng.uniform(3, 9)))


def _accreting(wavelength, rng):
    """Cataclysmic variables: Balmer, He I and He II emission of a disc, before a hot light."""
    light = _black_body(wavelength, 10 ** rng.uniform(np.log10(7000), np.log10(40000)))
    light = light / np.median(light) + 0.5 * rng.choice([0.0, rng.uniform(0, 1)]) * _relative(
        _red_dwarf(wavelength, rng)
    )
    sigma, strength = rng.uniform(6, 20), 10 ** rng.uniform(-0.5, 0.9)
    light = _with_emission(wavelength, light, _BALMER, strength, sigma)
    light = _with_emission(wavelength, light, _HELIUM, 0.3 * strength * rng.uniform(0.3, 1.2), sigma)
    return _with_emission(wavelength, light, _IONISED_HELIUM[2:3], strength * rng.uniform(0, 0.6), sigma)


def _pair(wavelength, rng):
    """Sum the light of a white dwarf and of a red one."""
    white, red = _relative(_hydrogen_dwarf(wavelength, rng)), _relative(_red_dwarf(wavelength, rng))
    return white + 10 ** rng.uniform(-0.6, 0.6) * red


_KINDS = {
    "OB": _hot, "DA": _hydrogen_dwarf, "DB": _helium_dwarf, "DC": _featureless_dwarf, "DQ": _carbon_dwarf,
    "DZ": _metal_dwarf, "M": _red_dwarf, "sdM": _red_subdwarf, "L": _brown_dwarf, "C": _carbon_star,
    "CV": _accreting, "WD+M": _pair,
}  # fmt: skip
STELLAR_KINDS = tuple(_KINDS)


def _black_body(wavelength, temperature):
    return (wavelength / 6000.0) ** -5 / np.expm1(1.43878e8 / (wavelength * temperature))


def _relative(light):
    return light / np.median(light)


def _with_emission(wavelength, light, lines, strength, sigma):
    return light * (1 + _lines(wavelength, lines, strength, sigma))


def _lines(wavelength, lines, strength, sigma, wing=0.0):
    """Optical depth of lines of one width: Gaussian, with a part in Lorentzian wings."""
    total = np.zeros_like(wavelength)
    for centre, depth in lines:
        x = (wavelength - centre) / sigma
        total += depth * ((1 - wing) * np.exp(-0.5 * x**2) + wing / (1 + x**2))
    return strength * total


def _bands(wavelength, bands, strength, blur=3.0):
    """Optical depth of bands that begin at a head and fade away from it."""
    total = np.zeros_like(wavelength)
    for head, depth, length in bands:
        beyond = (wavelength - head) * np.sign(length)
        total += depth * np.exp(-np.clip(beyond, 0, None) / abs(length)) * expit(beyond / blur)
    return strength * total


def _blanket(wavelength, metals, rng):
    """Transmission of metal lines: the strong ones, many weak ones, and the veil of those too many to name."""
    weak = np.random.default_rng(1943)
    centres, depths = weak.uniform(3600, 7500, _N_WEAK), weak.exponential(0.05, _N_WEAK)
    strong = metals * rng.uniform(0.8, 1.2)
    depth = 0.25 * metals * np.clip((4600 - wavelength) / 1000, 0, None)
    for centre, own, sigma in _METAL_LINES:
        depth += strong * own * np.exp(-0.5 * ((wavelength - centre) / sigma) ** 2)
    for centre, own in zip(centres, metals * depths * (4300 / centres) ** 3, strict=True):
        near = slice(*np.searchsorted(wavelength, (centre - 12, centre + 12)))
        depth[near] += own * np.exp(-0.5 * ((wavelength[near] - centre) / 2.5) ** 2)
    return np.exp(-depth)
