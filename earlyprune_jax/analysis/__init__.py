"""Reading a workdir: tables, signal peaks, rules replayed, figures, the closing summary.

Public names: `results.publish` writes all there is, `results.write_tables`, `rules.write`,
`figures.draw_main` and `regimes.write` a part of it; `rules.replay`, `rules.table`,
`summary.summarize` and `compare.compare` take workdirs too. `results.read_runs` gives a workdir's
runs as one frame to anyone who wants other numbers, and may be handed on to all of these;
`results.by_setting` tells apart those that must not be averaged or paired. Nothing here imports a
model, JAX or Flax: a workdir copied to any machine can be analysed there.
"""
