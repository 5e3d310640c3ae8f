"""Planted rare objects and artefacts: each changes the wavelengths it should, and nothing else."""

import numpy as np
import pytest

from astrolab.simulation import artefacts, rare
from astrolab.simulation.grid import WAVELENGTH
from astrolab.simulation.sky import sky_brightness

N = 12
REDSHIFT = np.linspace(2.2, 2.8, N)


def _rng():
    return np.random.default_rng(0)


def _flat(level=1.0):
    return np.full((N, WAVELENGTH.size), level, "float32")


def _at(flux, redshift, wavelength):
    """Flux at one rest wavelength of every object."""
    return np.array([np.interp(wavelength * (1 + z), WAVELENGTH, row) for row, z in zip(flux, redshift, strict=True)])


def _velocity(line, velocity):
    beta = velocity / 299792.458
    return line * np.sqrt((1 + beta) / (1 - beta))


def test_bal_troughs_lie_blueward_of_their_lines():
    new = rare.inject_bal(_flat(), WAVELENGTH, REDSHIFT, _rng(), velocity=5000, width=6000, depth=0.9)
    assert new.dtype == np.float32
    for line in (1240.14, 1396.76, 1549.06):
        assert _at(new, REDSHIFT, _velocity(line, -8000)).max() < 0.7
    assert _at(new, REDSHIFT, 1549.06).min() > 0.99
    assert _at(new, REDSHIFT, _velocity(1549.06, -15000)).min() > 0.95
    assert np.all(new[:, WAVELENGTH > 1560 * 3.8] == 1)


def test_bal_depth_is_the_depth_asked_for():
    depths = [0.2, 0.5, 0.9]
    lowest = [
        _at(
            rare.inject_bal(_flat(), WAVELENGTH, REDSHIFT, _rng(), velocity=3000, width=9000, depth=depth),
            REDSHIFT,
            1511,
        ).mean()
        for depth in depths
    ]
    assert np.all(np.diff(lowest) < -0.1)
    assert lowest[-1] < 0.35


@pytest.mark.parametrize(("kind", "absorbs"), [("HI", ()), ("LO", (2798.75,)), ("FELO", (2798.75, 2600.2, 2382.8))])
def test_kinds_of_bal_differ_in_their_lines(kind, absorbs):
    redshift = np.linspace(1.3, 1.6, N)
    new = rare.inject_bal(_flat(), WAVELENGTH, redshift, _rng(), kind=kind, velocity=2000, width=4000, depth=0.95)
    for line in (2382.8, 2600.2, 2798.75):
        least = _at(new, redshift, _velocity(line, -4000)).max()
        assert (least < 0.75) == (line in absorbs), (line, least)


def test_unknown_kind_of_bal_is_refused():
    with pytest.raises(ValueError, match="expected one of 'HI', 'LO', 'FELO'"):
        rare.inject_bal(_flat(), WAVELENGTH, REDSHIFT, _rng(), kind="MID")


def test_absorption_of_a_model_keeps_the_noise():
    noisy = _flat() + _rng().normal(0, 0.3, (N, WAVELENGTH.size)).astype("float32")
    arguments = {"velocity": 5000, "width": 6000, "depth": 0.9}
    new = rare.inject_bal(noisy, WAVELENGTH, REDSHIFT, _rng(), signal=_flat(), **arguments)
    clean = rare.inject_bal(_flat(), WAVELENGTH, REDSHIFT, _rng(), **arguments)
    np.testing.assert_allclose(new - clean, noisy - 1, atol=1e-5)


def test_dla_is_black_in_the_middle_and_has_damping_wings():
    absorber = np.full(N, 2.2)
    new = rare.inject_dla(_flat(), WAVELENGTH, REDSHIFT + 0.5, _rng(), log_nhi=21.0, redshift_dla=absorber)
    assert _at(new, absorber, 1215.67).max() < 1e-3
    # half width at half depth of the damping wing: 7.2 (N / 10**21)**0.5 Å where the optical depth is ln 2
    wing = _at(new, absorber, 1215.67 + np.sqrt(1e21 * 4.26e-20 / np.log(2)))
    np.testing.assert_allclose(wing, 0.5, atol=0.03)
    assert _at(new, absorber, 2796.35).max() < 0.6
    assert _at(new, absorber, 1450).min() > 0.98


def test_dla_needs_a_forest():
    with pytest.raises(ValueError, match="Lyα to be in range"):
        rare.inject_dla(_flat(), WAVELENGTH, np.full(N, 1.5), _rng())


def test_reddening_dims_the_blue_more():
    new = rare.inject_reddening(_flat(), WAVELENGTH, REDSHIFT, _rng(), ebv=0.1)
    assert np.all(np.diff(new, axis=1) > -1e-6)
    expected = 10 ** (-0.4 * 0.1 * 1.39 * (0.15**-1.2))
    np.testing.assert_allclose(_at(new, REDSHIFT, 1500), expected, rtol=1e-4)


def test_weak_lines_leave_the_continuum():
    lines = np.exp(-0.5 * ((WAVELENGTH - 5500) / 40) ** 2)[None].repeat(N, 0).astype("float32") * 3
    new = rare.inject_weak_lines(_flat() + lines, lines, _rng(), factor=0.1)
    np.testing.assert_allclose(new, 1 + 0.1 * lines, atol=1e-6)


def test_double_peaks_straddle_h_beta():
    redshift = np.full(N, 0.3)
    new = rare.inject_double_peaks(_flat(), _flat(), WAVELENGTH, redshift, _rng(), equivalent_width=80, separation=9000)
    middle = _at(new, redshift, 4862.68)
    for side in (-4500, 4500):
        assert np.all(_at(new, redshift, 4862.68 * (1 + side / 299792.458)) > middle * 1.1)
    near = np.abs(WAVELENGTH / 1.3 - 4862.68) < 300
    np.testing.assert_allclose((new[:, near] - 1).sum(axis=1) * 0.8 / 1.3, 80, rtol=0.03)


def test_c_iv_peak_has_its_equivalent_width():
    new = rare.inject_civ_peak(_flat(), _flat(2.0), WAVELENGTH, REDSHIFT, _rng(), equivalent_width=100, fwhm=1500)
    for row, z in zip(new, REDSHIFT, strict=True):
        near = np.abs(WAVELENGTH / (1 + z) - 1549.06) < 30
        assert (row[near] - 1).sum() * 0.8 / (1 + z) / 2.0 == pytest.approx(100, rel=0.02)


def test_changing_look_leaves_the_host():
    continuum, lines, host = _flat(3.0), _flat(1.0), _flat(0.5)
    new = rare.inject_changing_look(continuum + lines + host, continuum, lines, _rng(), fade=0.1)
    np.testing.assert_allclose(new, 0.5 + 0.3 + 0.025, rtol=1e-5)


def test_blend_adds_the_other_object_in_the_ratio_asked_for():
    other = np.linspace(1, 3, WAVELENGTH.size, dtype="float32")[None].repeat(N, 0)
    new = rare.inject_blend(_flat(4.0), other, _rng(), ratio=0.5)
    np.testing.assert_allclose(new, 4 + 0.5 * 4 / 2 * other, rtol=1e-3)


def test_wrong_redshift_is_wrong():
    redshift = np.linspace(0.3, 3.9, 200)
    wrong = rare.draw_wrong_redshift(redshift, _rng())
    assert np.all((wrong > 0.05) & (wrong < 5.5))
    assert np.min(np.abs(wrong - redshift) / (1 + redshift)) > 0.01


def test_cosmic_rays_are_a_few_high_pixels():
    ivar = _flat(4.0)
    ivar[:, 1000:1200] = 0
    new = artefacts.inject_cosmic_rays(_flat(), ivar, _rng(), n_hits=5, amplitude=50)
    changed = new != 1
    assert np.all(changed.sum(axis=1) <= 15)
    assert np.all((new - 1)[:, 1000:1200] == 0)
    assert np.all((new - 1).max(axis=1) > 0.4 * 50 * 0.5 * 0.99)
    place = [np.ptp(np.flatnonzero(row)) for row in changed]
    assert max(place) < 110  # a cluster


def test_sky_residuals_sit_on_sky_lines():
    new = artefacts.inject_sky_residual(_flat(), _flat(), WAVELENGTH, _rng(), amplitude=0.1)
    change = np.abs(new - 1).mean(axis=0)
    is_dark = sky_brightness() < 3
    assert change[is_dark].max() < 0.2
    assert change[np.abs(WAVELENGTH - 5578.9) < 2].max() > 5


def test_arm_step_multiplies_one_camera():
    new = artefacts.inject_arm_step(_flat(), WAVELENGTH, _rng(), step=0.3, overlap=0)
    np.testing.assert_allclose(new[:, WAVELENGTH < 5760], 1.3, rtol=1e-6)
    np.testing.assert_array_equal(new[:, WAVELENGTH > 5800.1], 1)
    new = artefacts.inject_arm_step(_flat(), WAVELENGTH, _rng(), step=-0.2, overlap=1)
    np.testing.assert_array_equal(new[:, WAVELENGTH < 7519.9], 1)
    np.testing.assert_allclose(new[:, WAVELENGTH > 7620.1], 1.25, rtol=1e-6)


def test_dead_amplifier_masks_half_a_camera():
    flux, ivar = artefacts.inject_dead_amplifier(_flat(), _flat(), WAVELENGTH, _rng(), amplifier=2)
    dead = (WAVELENGTH >= 5800) & (WAVELENGTH < 6690)
    np.testing.assert_array_equal(ivar == 0, np.broadcast_to(dead, ivar.shape))
    assert np.all(flux[:, dead] == 0)
    assert np.all(flux[:, ~dead] == 1)


def test_injections_are_deterministic_and_leave_their_input_alone():
    ivar = _flat()
    calls = {
        "inject_bal": lambda flux: rare.inject_bal(flux, WAVELENGTH, REDSHIFT, _rng()),
        "inject_dla": lambda flux: rare.inject_dla(flux, WAVELENGTH, REDSHIFT, _rng()),
        "inject_reddening": lambda flux: rare.inject_reddening(flux, WAVELENGTH, REDSHIFT, _rng()),
        "inject_double_peaks": lambda flux: rare.inject_double_peaks(flux, flux, WAVELENGTH, REDSHIFT - 2, _rng()),
        "inject_civ_peak": lambda flux: rare.inject_civ_peak(flux, flux, WAVELENGTH, REDSHIFT, _rng()),
        "inject_changing_look": lambda flux: rare.inject_changing_look(flux, flux, flux, _rng()),
        "inject_weak_lines": lambda flux: rare.inject_weak_lines(flux, flux, _rng()),
        "inject_blend": lambda flux: rare.inject_blend(flux, flux, _rng()),
        "inject_cosmic_rays": lambda flux: artefacts.inject_cosmic_rays(flux, ivar, _rng()),
        "inject_sky_residual": lambda flux: artefacts.inject_sky_residual(flux, ivar, WAVELENGTH, _rng()),
        "inject_arm_step": lambda flux: artefacts.inject_arm_step(flux, WAVELENGTH, _rng()),
        "inject_dead_amplifier": lambda flux: artefacts.inject_dead_amplifier(flux, ivar, WAVELENGTH, _rng())[0],
    }
    for name, call in calls.items():
        flux = _flat()
        first, second = call(flux), call(flux)
        np.testing.assert_array_equal(first, second, err_msg=name)
        np.testing.assert_array_equal(flux, _flat(), err_msg=name)
        assert first.dtype == np.float32, name
        assert not np.array_equal(first, flux), name
