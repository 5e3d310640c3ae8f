"""The comparison of benchmark ratios with the stored baseline; nothing is timed here."""

import json
import re

import pytest

from benchmarks import check, ingest, rank, resume, train
from benchmarks.timing import print_measured

BASELINE = json.loads(check.BASELINE_PATH.read_text(encoding="utf-8"))


def test_the_stored_baseline_holds_ratios_alone_and_passes_against_itself():
    assert BASELINE
    assert all(0 < value < 1000 for value in BASELINE.values())
    assert not [name for name in BASELINE if re.search(r"spectra/s|seconds|MB|µs", name)]
    assert check.worsened(BASELINE, BASELINE) == []


@pytest.mark.parametrize("name", sorted(BASELINE))
def test_each_ratio_that_worsens_by_more_than_a_third_is_named(name):
    assert check.worsened(BASELINE | {name: 0.68 * BASELINE[name]}, BASELINE) == []
    for bad in (0.65 * BASELINE[name], 0.0, float("nan")):
        (sentence,) = check.worsened(BASELINE | {name: bad}, BASELINE)
        assert name in sentence
        assert "third" in sentence


def test_a_ratio_that_is_not_in_both_is_named():
    assert "not measured" in check.worsened({}, {"a": 1.0})[0]
    assert "not in the baseline" in check.worsened({"a": 1.0}, {})[0]


def test_a_worse_ratio_ends_the_check_with_a_failure(monkeypatch, capsys):
    name = sorted(BASELINE)[0]
    monkeypatch.setattr("sys.argv", ["check"])
    monkeypatch.setattr(check, "measure", lambda: BASELINE | {name: 0.5 * BASELINE[name]})
    with pytest.raises(SystemExit, match=re.escape(name)):
        check.main()
    monkeypatch.setattr(check, "measure", lambda: BASELINE)
    check.main()


def test_what_is_measured_is_what_the_baseline_holds(monkeypatch):
    """Each benchmark gives the figures that the check reads, and the check gives the baseline's names."""

    class Anything(dict):
        def __missing__(self, key):
            return 1.0

    for module in (rank, resume, ingest, train):
        monkeypatch.setattr(module, "measure", lambda *_, **__: Anything())
    assert check.measure().keys() == BASELINE.keys()


def test_sizes_of_the_command_line_are_measured_and_said(capsys):
    def measure(n_objects, n_epochs):
        return {"seen": n_objects * n_epochs}

    sizes = {"n_objects": 2000, "n_epochs": 3}
    print_measured(measure, "{n_objects:,} spectra", ["--n-epochs", "5", "--json"], **sizes)
    assert json.loads(capsys.readouterr().out) == {"seen": 10_000}
    print_measured(measure, "{n_objects:,} spectra", [], **sizes)
    shown = capsys.readouterr().out
    assert "2,000 spectra" in shown
    assert "6,000" in shown
    with pytest.raises(SystemExit):
        print_measured(measure, "", ["--n-objects", "many"], **sizes)
