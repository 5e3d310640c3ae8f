"""The figures that ship are those of the benchmark, text that a report can show."""

import astrolab as al
from benchmarks.ranking.summary import _COLUMNS, summarise


def test_every_baseline_stands_beside_the_ranking():
    table = al.measured_ranking()
    assert table.index[0] == "AstroLab"
    assert {"random", "1/SNR", "template χ²", "PCA-20 χ²", "PCA-20 isolation", "plain VAE", "latent density"} <= set(
        table.index
    )
    assert list(table.columns) == list(_COLUMNS)
    assert table.attrs["command"] == "python -m benchmarks.ranking"
    assert (table != "").all(axis=None)


def test_a_summary_says_what_the_benchmark_said():
    figures = [
        {
            "metric": metric,
            "subject": subject,
            "ranker": ranker,
            "value": value,
            "low": value - 0.1,
            "high": value + 0.1,
        }
        for metric, subject, _ in _COLUMNS.values()
        for ranker, value in (("AstroLab", 0.5), ("AstroLab: raw", 0.4), ("random", 0.11))
    ]
    rows = summarise({"figures": figures, "label": "real"})["rows"]
    assert [row["ranker"] for row in rows] == ["AstroLab", "random"]
    assert rows[1]["real rare classes, recall"] == "0.11 (0.01–0.21)"
    assert rows[0]["ρ with S/N"] == "0.50"
