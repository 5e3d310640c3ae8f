"""The rest frame and normalisation, against plain numpy and against physics."""

import numpy as np
import pytest
import xarray as xr
from astropy import table, units

import astrolab as al
from astrolab.selection import keep_objects
from astrolab.spectra import pixel_edges


def slow_restframe(wavelength, flux, ivar, redshift, grid):
    """Return one rebinned spectrum, pixel by pixel, as the definition says."""
    edges_in, edges_out = pixel_edges(wavelength) / (1 + redshift), pixel_edges(grid)
    flux_out, ivar_out = np.zeros(len(grid)), np.zeros(len(grid))
    for k in range(len(grid)):
        overlap = np.minimum(edges_in[1:], edges_out[k + 1]) - np.maximum(edges_in[:-1], edges_out[k])
        use = (overlap > 0) & (ivar > 0)
        width = overlap[use].sum()
        if width > 0 and width >= 0.5 * (edges_out[k + 1] - edges_out[k]):
            flux_out[k] = (1 + redshift) * (overlap[use] * flux[use]).sum() / width
            ivar_out[k] = width**2 / (overlap[use] ** 2 / ivar[use]).sum() / (1 + redshift) ** 2
    return flux_out, ivar_out


@pytest.mark.parametrize("n_wavelength", [37, 300, 4000])
def test_restframe_is_the_plain_numpy_truth(quasars, n_wavelength):
    grid = al.rest_grid(1200, 3800, n_wavelength)
    some = quasars.isel(object=slice(0, 5))
    rest = al.to_restframe(some, grid)
    for i in range(5):
        one = some.isel(object=i)
        flux, ivar = slow_restframe(
            quasars.wavelength.values, one.flux.values.astype(float), one.ivar.values, float(one.redshift), grid
        )
        np.testing.assert_allclose(rest.flux[i], flux, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(rest.ivar[i], ivar, rtol=2e-5)


def test_a_gaussian_line_keeps_its_flux_place_and_width(quasars):
    sigma, line_flux = 12.0, 70.0
    wavelength = quasars.wavelength.values
    redshift = quasars.redshift.values[:, None]
    centre = 2000 * (1 + redshift)
    gauss = line_flux / (sigma * np.sqrt(2 * np.pi)) * np.exp(-0.5 * ((wavelength - centre) / sigma) ** 2)
    spectra = quasars.assign(
        flux=(("object", "wavelength"), gauss.astype("f4")), ivar=(("object", "wavelength"), np.ones_like(gauss, "f4"))
    )
    grid = al.rest_grid(1950, 2050, 200)
    rest = al.to_restframe(spectra, grid)
    width = np.diff(pixel_edges(grid))
    total = (rest.flux * width).sum("wavelength_rest")
    np.testing.assert_allclose(total, line_flux, rtol=2e-4)
    mean = (rest.flux * width * grid).sum("wavelength_rest") / total
    np.testing.assert_allclose(mean, 2000, atol=0.02)
    second = (rest.flux * width * (grid - 2000) ** 2).sum("wavelength_rest") / total
    np.testing.assert_allclose(np.sqrt(second), sigma / (1 + redshift[:, 0]), rtol=0.05)


def test_the_noise_is_what_ivar_says(quasars):
    rng = np.random.default_rng(3)
    noise = rng.normal(size=quasars.flux.shape).astype("f4")
    ones = np.ones_like(noise)
    dims = ("object", "wavelength")
    rest = al.to_restframe(quasars.assign(flux=(dims, noise), ivar=(dims, ones)), al.rest_grid(1700, 2500, 80))
    chi = (rest.flux * np.sqrt(rest.ivar)).values
    assert abs(chi.std() - 1) < 0.02
    assert abs(chi.mean()) < 0.02


def test_masked_pixels_do_not_matter(quasars):
    masked = quasars.ivar == 0
    changed = quasars.assign(flux=quasars.flux.where(~masked, 1e9).astype("f4"))
    grid = al.rest_grid(1200, 3800, 300)
    for step in (al.normalize_flux, lambda spectra: al.to_restframe(spectra, grid)):
        one, other = step(quasars), step(changed)
        np.testing.assert_array_equal(one.flux, other.flux)
        np.testing.assert_array_equal(one.ivar, other.ivar)


def test_lazy_spectra_stay_lazy_and_give_the_same_bytes(quasars, in_chunks):
    grid = al.rest_grid(1200, 3800, 300)
    lazy = al.normalize_flux(al.to_restframe(in_chunks(quasars, 70), grid))
    assert lazy.flux.chunks[0] == (70, 70, 70, 70, 20)
    eager = al.normalize_flux(al.to_restframe(quasars, grid))
    np.testing.assert_array_equal(lazy.flux, eager.flux)
    np.testing.assert_array_equal(lazy.ivar, eager.ivar)
    al.check_spectra(lazy)


@pytest.mark.parametrize("redshift", [np.nan, -1.0, -5.0, np.inf])
def test_an_object_without_a_redshift_stays_as_an_empty_row(quasars, redshift):
    values = quasars.redshift.values.copy()
    values[3] = redshift
    rest = al.to_restframe(quasars.assign_coords(redshift=("object", values)), al.rest_grid(1200, 3800, 300))
    assert rest.sizes["object"] == quasars.sizes["object"]
    assert not rest.ivar[3].any()
    assert not rest.flux[3].any()
    assert rest.ivar[2].any()


def test_signal_to_noise_survives_normalisation(quasars):
    scaled = al.normalize_flux(quasars)
    np.testing.assert_allclose(
        scaled.flux * np.sqrt(scaled.ivar), quasars.flux * np.sqrt(quasars.ivar), rtol=1e-4, atol=1e-4
    )
    good = scaled.flux.where(scaled.ivar > 0)
    np.testing.assert_allclose(good.median("wavelength"), 1, rtol=1e-4)


def test_pure_noise_is_not_blown_up(quasars):
    noise = np.random.default_rng(0).normal(size=quasars.flux.shape).astype("f4")
    dims = ("object", "wavelength")
    scaled = al.normalize_flux(quasars.assign(flux=(dims, noise), ivar=(dims, np.ones_like(noise))))
    assert float(np.abs(scaled.flux).max()) < 7


def test_a_spectrum_without_a_good_pixel_stays_zero(quasars):
    ivar = quasars.ivar.values.copy()
    ivar[7] = 0
    scaled = al.normalize_flux(quasars.assign(ivar=(("object", "wavelength"), ivar)))
    assert not scaled.flux[7].any()
    assert np.isfinite(scaled.flux).all()


def test_a_second_shift_to_the_rest_frame_is_refused(rest_quasars):
    with pytest.raises(al.SchemaError, match="in the rest frame already"):
        al.to_restframe(rest_quasars, al.rest_grid(1200, 3800, 300))


@pytest.mark.parametrize("grid", [[2000, 1000], [[1, 2]], [np.nan, 3000], [5.0], [-1, 3]])
def test_a_grid_that_is_none_is_refused(quasars, grid):
    with pytest.raises(al.SchemaError, match="rest_grid"):
        al.to_restframe(quasars, grid)


@pytest.mark.parametrize("arguments", [(3000, 1000, 10), (0, 1000, 10), (1000, 2000, 1)])
def test_an_empty_rest_grid_is_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        al.rest_grid(*arguments)


def test_a_unit_is_converted_and_never_stripped(quasars):
    nm, grid = units.nm, np.geomspace(1300.0, 2900.0, 60)
    assert np.allclose(al.rest_grid(130 * nm, 0.29 * units.micron, 60), grid, rtol=1e-12)
    plain = al.to_restframe(quasars, grid).flux
    labelled = xr.DataArray(grid / 10, dims="wavelength_rest", attrs={"units": "nm"})
    for same in (grid / 10 * nm, table.Column(grid / 10, unit="nm"), labelled):
        rest = al.to_restframe(quasars, same)
        assert rest.wavelength_rest.dtype == "float64"
        assert np.allclose(rest.wavelength_rest, grid, rtol=1e-12)
        assert np.allclose(rest.flux, plain, rtol=1e-5, atol=1e-5)
    masked = al.mask_lines(quasars, 1549.06, width=2000).ivar
    for line in (154.906 * nm, [154.906 * nm], [154.906] * nm):
        assert (al.mask_lines(quasars, line, width=2e6 * units.m / units.s).ivar == masked).all()
    assert al.lines_between(490 * nm, 5100) == al.lines_between(4900, 5100)


@pytest.mark.parametrize(
    "ask",
    [
        lambda spectra: al.rest_grid(1216 * units.Hz, 2900, 10),
        lambda spectra: al.rest_grid(1216, 2900 * units.dimensionless_unscaled, 10),
        lambda spectra: al.to_restframe(spectra, [1, 2] * units.keV),
        lambda spectra: al.to_restframe(spectra, xr.DataArray([1.0, 2.0], attrs={"units": "parrots"})),
        lambda spectra: al.mask_lines(spectra, 1549.06 * units.s),
        lambda spectra: al.mask_lines(spectra, "C IV", width=20 * units.nm),
        lambda spectra: al.lines_between(1216, 2900 * units.K),
    ],
)
def test_a_unit_that_is_no_length_is_refused(quasars, ask):
    with pytest.raises(
        ValueError, match=r"^a value is given in '.*', expected (Angstrom|km / s), a unit like it, or none\.$"
    ):
        ask(quasars)


def test_spectra_in_nanometres_are_refused(quasars):
    nm = quasars.assign_coords(wavelength=("wavelength", quasars.wavelength.values / 10, {"units": "nm"}))
    with pytest.raises(al.SchemaError, match=r"^'wavelength' is in 'nm', expected Angstrom: "):
        al.check_spectra(nm)


def test_every_object_is_selected_or_says_why_not(quasars):
    redshift, spectype = quasars.redshift.values.copy(), quasars.spectype.values.astype(object)
    redshift[:2], spectype[2], spectype[3], is_target = (np.nan, 9.0), "STAR", "", np.full(300, True)
    is_target[4] = False
    columns = {"redshift": redshift, "spectype": spectype.astype(str), "is_target": is_target}
    spectra = quasars.assign_coords({name: ("object", values) for name, values in columns.items()})
    selected, left_out = al.select_objects(spectra, redshift_max=6.0)
    assert list(left_out["reason"]) == [
        "no redshift was measured",
        "redshift is outside 0.0 to 6.0",
        "spectype is STAR",
        "spectype is unknown",
        "not a target: a sky, blank or broken fibre",
    ]
    assert sorted([*selected.targetid.values, *left_out["targetid"]]) == sorted(quasars.targetid.values)
    assert al.select_objects(spectra, spectype="any")[0].sizes["object"] == 298


@pytest.mark.parametrize("n_ivar", [64, 50, 300])
def test_a_selection_of_lazy_spectra_divides_no_chunk(quasars, in_chunks, n_ivar):
    lazy = in_chunks(quasars, 64).assign(ivar=quasars.ivar.chunk(object=n_ivar, wavelength=100))
    is_kept = np.random.default_rng(0).random(300) < 0.7
    is_kept[64:128], is_kept[128:192] = False, True  # of one chunk nothing is left, and all of another
    kept = keep_objects(lazy, is_kept)
    xr.testing.assert_identical(kept.compute(), quasars.isel(object=is_kept))
    assert kept.flux.chunks[0] == tuple(int(is_kept[i : i + 64].sum()) for i in (0, 128, 192, 256))
    xr.testing.assert_identical(keep_objects(quasars, is_kept), quasars.isel(object=is_kept))
    assert keep_objects(lazy, np.zeros(300, bool)).sizes["object"] == 0
    # a chunk's name is the hash of all that leads to it, also in another process: what was computed of it is found
    assert keep_objects(lazy, is_kept).flux.data.name == kept.flux.data.name


def test_a_selection_that_leaves_nothing_says_what_there_is(quasars):
    with pytest.raises(ValueError, match=r"none of 300 objects is a GALAXY.*\(300 × spectype is QSO\)"):
        al.select_objects(quasars, spectype="GALAXY")
    unknown = quasars.assign_coords(redshift=quasars.redshift * np.nan)
    with pytest.raises(
        ValueError, match=r"300 × no redshift was measured.* or measure redshifts with classify_spectra\.$"
    ):
        al.select_objects(unknown)
