"""How well a ranking puts rare spectra first: real rare classes and injections, never pooled.

``python -m benchmarks.ranking`` prints both tables for AstroLab's ranking and every baseline on the same split. Two
things plug in from outside this package, as ``--ranker module:name`` and ``--family module:name``: see
`benchmarks.ranking.rankers` and `benchmarks.ranking.families`.
"""
