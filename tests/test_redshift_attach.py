"""attach_redshifts: measured redshifts in the place of a survey's, joined exactly, and nobody left out unsaid."""

import numpy as np
import pandas as pd
import pytest

import astrolab as al

DOUBT = "its measured redshift is doubtful: "


@pytest.fixture(scope="module")
def spectra():
    """Six spectra that came without redshifts; two identifiers that a float cannot tell apart."""
    found = al.simulate_survey(6, seed=5).compute()
    targetid = np.array([2**60 + 1, 2**60 + 2, 3, 4, 5, 6])
    unknown = {"redshift": np.full(6, np.nan), "redshift_err": np.full(6, np.nan), "spectype": np.full(6, "")}
    columns = {
        name: ("object", values, found[name].attrs) for name, values in (unknown | {"targetid": targetid}).items()
    }
    return found.assign_coords(columns)


@pytest.fixture
def table(spectra):
    """What was measured, in another order: the object 6 is not in it."""
    rows = {
        "targetid": [5, 2**60 + 2, 4, 3, 2**60 + 1],
        "spectype": ["", "GALAXY", "QSO", "QSO", "QSO"],
        "redshift": [np.nan, 0.5, 2.5, 1.5, 0.7],
        "redshift_err": [np.nan, 1e-4, 2e-4, 3e-4, 4e-4],
        "redshift_warning": [1 << 9, 0, (1 << 2) | (1 << 12), 0, 0],
    }
    return pd.DataFrame(rows)


def save(table, folder):
    al.save_table(table, folder / "redshifts.parquet")
    return folder / "redshifts.parquet"


def test_each_object_gets_its_own_redshift_or_says_why_not(spectra, table, tmp_path):
    measured, left_out = al.attach_redshifts(spectra, save(table, tmp_path))
    al.check_spectra(measured)
    assert measured["targetid"].values.tolist() == [2**60 + 1, 2**60 + 2, 3]
    assert measured["redshift"].values.tolist() == [0.7, 0.5, 1.5]
    assert measured["redshift_err"].values.tolist() == [4e-4, 1e-4, 3e-4]
    assert measured["spectype"].values.tolist() == ["QSO", "GALAXY", "QSO"]
    assert measured["redshift_warning"].values.tolist() == [0, 0, 0]
    assert measured["redshift"].attrs == spectra["redshift"].attrs
    assert (measured["flux"].values == spectra["flux"].values[:3]).all()
    assert left_out["targetid"].dtype == "int64"
    assert dict(left_out.itertuples(index=False)) == {
        4: DOUBT + "SMALL_DELTA_CHI2, DISAGREES",
        5: DOUBT + "NO_DATA",
        6: "the table of redshifts has no row of it",
    }
    assert np.isnan(spectra["redshift"].values).all()


def test_without_a_table_spectra_stay_as_they_are(spectra):
    same, left_out = al.attach_redshifts(spectra)
    assert same is spectra
    assert (len(left_out), list(left_out), left_out["targetid"].dtype) == (0, ["targetid", "reason"], "int64")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda table: table.drop(columns="redshift_err"), "has no column 'redshift_err', expected redshifts.parquet"),
        (lambda table: table.astype({"targetid": "float64"}), "targetid of the redshifts is a float, expected int64"),
        (lambda table: pd.concat([table, table[:1]]), "targetid 5 stands twice"),
        (lambda table: table[:0], "none of 6 objects has a good redshift in .*6 × the table of redshifts has no row"),
        (lambda table: table.assign(redshift_warning=2), "none of 6 objects .*5 × .* doubtful: LITTLE_COVERAGE"),
    ],
    ids=["column", "float", "twice", "empty", "doubtful"],
)
def test_a_table_that_will_not_do(spectra, table, tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        al.attach_redshifts(spectra, save(change(table), tmp_path))


def test_a_file_that_is_no_table(spectra, tmp_path):
    (tmp_path / "redshifts.csv").write_text("targetid,redshift\n")
    with pytest.raises(ValueError, match=r"redshifts\.csv' is no Parquet file, expected redshifts\.parquet"):
        al.attach_redshifts(spectra, tmp_path / "redshifts.csv")
