"""The template rank_anomalies: the same bytes on any number of workers, and every object accounted for."""

import pandas as pd
import pytest

import astrolab as al

SMALL = {"wavelength_min": 1200.0, "wavelength_max": 3800.0, "n_wavelength": 200, "n_epochs": 3, "n_top": 20}
SMALL |= {"n_models": 2, "n_explain": 2}


@pytest.fixture
def spectra_path(quasars, tmp_path):
    spectype = quasars.spectype.values.copy().astype("U6")
    spectype[:2] = "GALAXY", "STAR"
    path = tmp_path / "spectra.zarr"
    al.save_spectra(quasars.assign_coords(spectype=("object", spectype)), path, chunk_size=64)
    return str(path)


@pytest.mark.timeout(600)
def test_two_runs_with_one_seed_give_the_same_bytes_on_one_and_two_workers(spectra_path, tmp_path):
    folders = []
    for n_workers in (1, 2):
        result = al.run_template(
            "rank_anomalies",
            run_dir=tmp_path / f"on {n_workers}",
            spectra_path=spectra_path,
            n_workers=n_workers,
            progress=False,
            **SMALL,
        )
        folders.append(result.run_dir)
    for name in (
        "ranking.parquet",
        "not_ranked.parquet",
        "explanations.parquet",
        "history.csv",
        "model_1/weights.safetensors",
    ):
        one, two = ((folder / name).read_bytes() for folder in folders)
        assert one == two, name

    ranking = pd.read_parquet(folders[0] / "ranking.parquet")
    not_ranked = pd.read_parquet(folders[0] / "not_ranked.parquet")
    assert len(ranking) == 298
    assert list(not_ranked["reason"]) == ["spectype is GALAXY", "spectype is STAR"]
    wanted = {"targetid", "survey", "ra", "dec", "redshift", "spectype", "snr", "anomaly_score", "anomaly_rank"}
    assert wanted | {"reasons", "score_chi2", "score_trough", "score_latent"} <= set(ranking.columns)
    assert ranking["targetid"].dtype == "int64"
    top = al.open_spectra(folders[0] / "top.zarr")
    assert list(top.targetid.values) == list(ranking["targetid"].head(20))
    assert al.verify_run(folders[0]) == []
