"""Single arms on the vetting page: read from the survey's own file, believed where their coadd is what was ranked."""

import json
import shutil

import numpy as np
import pytest
from astropy.io import fits

import astrolab as al
from astrolab.dashboards.arms import ArmSource
from astrolab.dashboards.cache import SpectrumCache
from astrolab.dashboards.keyboard import keyboard_view
from astrolab.dashboards.spectrum_card import PURPLE, spectrum_view
from astrolab.dashboards.state import VettingState
from astrolab.plots import ranking_table
from astrolab.plots.style import BLUE, GREEN
from astrolab.readers.desi import read_arms
from astrolab.readers.files import BadFileError
from astrolab.simulation.desi_files import write_desi_files
from astrolab.stores.catalog import open_catalog
from astrolab.stores.spectra import save_spectra
from astrolab.vetting.campaigns import open_campaign
from astrolab.vetting.run_folder import ranking_columns


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """A small simulated survey as DESI's files, and as the store that they were ingested to."""
    folder = tmp_path_factory.mktemp("desi")
    paths = write_desi_files(al.simulate_survey(8, seed=1), folder / "files", progress=False)
    al.ingest_survey("desi", str(folder / "files"), folder / "desi.zarr", progress=False)
    return folder / "files", paths, al.open_spectra(folder / "desi.zarr")


def ranked_of(spectra, grid=None):
    """A ranking that needed no model: normalised, in the rest frame, with what a page needs to know."""
    n, of = spectra.sizes["object"], "object"
    rest = spectra if grid is None else al.normalize_flux(al.to_restframe(spectra, grid))
    columns = {"anomaly_rank": np.arange(1, n + 1, dtype="i4"), "anomaly_score": np.linspace(2, 1, n).astype("f4")}
    columns["reasons"] = np.full(n, "odd", object)
    return rest.assign_coords({name: (of, values) for name, values in columns.items()})


@pytest.fixture(scope="module")
def ranked(survey):
    return ranked_of(survey[2], al.rest_grid(1000, 7500, 1500)).compute()


@pytest.fixture
def state(ranked):
    with open_catalog() as catalog:
        campaign = open_campaign(catalog, "run", ranking_columns(ranked))
        yield VettingState(SpectrumCache(ranked), campaign.session("vera", "vetter"), run_id="run")


def listed(source):
    """The source, once it knows which files there are."""
    source.submit(lambda: None).result()
    return source


def press(state, *keys):
    keyboard = keyboard_view(state)
    for number, key in enumerate(keys):
        keyboard._handle_msg({"key": key, "id": f"{id(keyboard)}-{number}"})


def test_arms_of_one_object_are_those_of_its_file(survey):
    _, (path, *_), spectra = survey
    with fits.open(path) as hdus:
        for row, targetid in enumerate(hdus["FIBERMAP"].data["TARGETID"]):
            arms = read_arms(str(path), int(targetid))
            for name in "BRZ":
                first = round((hdus[f"{name}_WAVELENGTH"].data[0] - 3600) / 0.8)
                where = slice(first, first + hdus[f"{name}_FLUX"].data.shape[1])
                is_good = hdus[f"{name}_MASK"].data[row] == 0
                for got, part in zip(arms[name], ("FLUX", "IVAR"), strict=True):
                    np.testing.assert_array_equal(got[where], np.where(is_good, hdus[f"{name}_{part}"].data[row], 0))
                assert not arms[name][:, : where.start].any()
                assert not arms[name][:, where.stop :].any()
            stored = spectra.isel(object=spectra["targetid"].values == targetid)
            np.testing.assert_array_equal(arms["coadd"], [stored["flux"].values[0], stored["ivar"].values[0]])
    assert read_arms(str(path), 1) is None


def test_arms_of_real_files_coadd_to_what_is_ingested(real_data, tmp_path):
    al.ingest_survey("desi", str(real_data / "desi"), tmp_path / "desi.zarr", progress=False)
    spectra = al.open_spectra(tmp_path / "desi.zarr")
    spectra = spectra.isel(object=(spectra["ivar"] > 0).any("wavelength").values)
    assert spectra.sizes["object"] > 5
    redshift = np.nan_to_num(spectra["redshift"].values, nan=0.2)
    ranked = ranked_of(spectra.assign_coords(redshift=("object", redshift)), al.rest_grid(1000, 7500, 1500)).compute()
    cache = SpectrumCache(ranked)
    for row in range(len(cache.table)):
        coadd = cache.spectrum(row)
        cache.arms.read(row, coadd)
        arms = cache.arms.known(row)
        assert set(arms) == set("BRZ"), cache.arms.why_not(row)
        seen = np.isfinite([flux for flux, _ in arms.values()])
        assert (seen.any(axis=0) == np.isfinite(coadd.flux))[5:-5].all()
        alone = seen.sum(axis=0) == 1
        only = np.nansum([flux for flux, _ in arms.values()], axis=0)
        n_differ = np.count_nonzero(~np.isclose(only[alone], coadd.flux[alone], rtol=1e-4, atol=1e-4))
        assert n_differ <= 4  # pixels of the ranking that an arm's end falls into


def test_arms_take_the_place_of_the_coadd(state, ranked):
    listed(state.spectra.arms)
    view = spectrum_view(state)
    flux = view[1].object.children[0]
    *by_arm, coadd = (flux.select_one({"name": name}) for name in ("b arm", "r arm", "z arm", "flux"))
    assert [one.glyph.line_color for one in by_arm] == [BLUE, PURPLE, GREEN]
    assert [one.visible for one in by_arm] == [False] * 3
    press(state, "f")
    assert state.with_arms
    assert [one.visible for one in (*by_arm, coadd)] == [True] * 3 + [False]
    before = by_arm[0].data_source.data["flux"]
    press(state, "n", "s")
    assert not np.array_equal(by_arm[0].data_source.data["flux"], before, equal_nan=True)
    ends = [np.nanmax(one.data_source.data["x"][np.isfinite(one.data_source.data["flux"])]) for one in by_arm]
    assert ends == sorted(ends)  # b, r, z
    press(state, "f")
    assert coadd.visible
    assert not any(one.visible for one in by_arm)


def test_the_observed_grid_needs_no_rebinning(survey):
    cache = SpectrumCache(ranked_of(survey[2]).compute())
    cache.arms.read(0, cache.spectrum(0))
    assert set(cache.arms.known(0)) == set("BRZ")


def test_a_file_that_went_or_changed_says_so(survey, ranked, state, tmp_path):
    folder, paths, _ = survey
    shutil.copytree(folder, tmp_path / "files")
    moved = {**ranked.attrs["provenance"], "sources": [str(tmp_path / "files")]}
    cache = SpectrumCache(ranked.assign_attrs(provenance=moved))
    path = next((tmp_path / "files").rglob(paths[0].name))
    row = int(np.flatnonzero([f"-{pixel}.fits" in path.name for pixel in ranked["healpix"].values])[0])
    listed(cache.arms)
    path.rename(tmp_path / "kept")
    assert cache.arms.why_not(row) == f"'{path}' is not there"
    state.spectra = cache
    state.go_to_row(row)
    box = spectrum_view(state).select(lambda one: getattr(one, "label", "") == "arms (f)")[0]
    press(state, "f")
    assert box.disabled
    assert not state.with_arms
    assert state.message == f"no single arms: '{path}' is not there"

    with fits.open(tmp_path / "kept") as hdus:
        for part in "BRZ":
            hdus[f"{part}_FLUX"].data *= 1.5
            hdus[f"{part}_FLUX"].data[:, 100] += 50
        hdus.writeto(path)
    press(state, "f")  # it is looked for again
    assert "do not coadd to the spectrum that was ranked" in state.why_no_arms
    path.write_bytes(path.read_bytes()[:100_000])
    press(state, "f", "f")
    assert "truncated" in state.why_no_arms
    with pytest.raises(BadFileError):
        read_arms(str(path), 1)
    path.unlink()
    (tmp_path / "kept").rename(path)
    press(state, "f", "f")
    assert cache.arms.known(row)


def test_stores_without_arms_say_why(ranked):
    for made_from, words in (
        ({}, "does not say which files"),
        ({"survey": "sdss", "sources": ["spectra"]}, "files of sdss hold no single arms"),
        ({"survey": "desi", "sources": ["/nowhere/iron"]}, "'/nowhere/iron' is not there"),
    ):
        source = ArmSource(ranked.assign_attrs(provenance=made_from))
        if source._listed:
            listed(source)
        assert words in source.why_not(0)
        source.read(0, None)
        assert source.known(0) is None


@pytest.mark.browser
@pytest.mark.timeout(240)
def test_a_person_looks_at_arms_and_reads_why_there_are_none(survey, ranked, tmp_path, serve_vetting, visit):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    save_spectra(ranked, run_dir / "top.zarr", keep_order=True)
    ranking_table(ranked).drop(columns="name").to_parquet(run_dir / "ranking.parquet")
    record = {"template": "rank_anomalies", "started": "2026-01-01T00:00:00+00:00", "status": "succeeded"}
    (run_dir / "run.json").write_text(json.dumps(record))
    box = "() => [...Bokeh.documents[0]._all_models.values()].find((one) => one.label === 'arms (f)')"
    shown, problems = "(name) => Bokeh.documents[0].get_model_by_name(name)?.visible", []
    with serve_vetting(run_dir, tmp_path) as (address, _):
        view = visit(address, problems)
        view.locator("dialog").wait_for(state="attached", timeout=60_000)
        view.keyboard.press("f")
        view.wait_for_function(f"() => ({shown})('b arm') && ({shown})('z arm') && !({shown})('flux')")
        assert view.evaluate(f"({box})().active")
        view.keyboard.press("f")
        view.wait_for_function(f"() => !({shown})('b arm') && ({shown})('flux')")
        folder = survey[0].rename(survey[0].with_name("elsewhere"))
        try:
            view.keyboard.press("n")
            view.keyboard.press("f")
            view.get_by_text("no single arms:").wait_for()
            assert view.evaluate(f"({box})().disabled")
            assert "is not there" in view.get_by_text("why?").get_attribute("title")
        finally:
            folder.rename(survey[0])
    assert problems == []
