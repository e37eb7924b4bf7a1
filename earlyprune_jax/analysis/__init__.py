"""Reading a workdir: tables, signal peaks, rules replayed, figures, the closing summary.

Public names: `publish.publish` writes all there is, `results.write_tables`, `rules.write` and
`figures.draw_accuracy_vs_fork_epoch` a part of it; `rules.replay` and `summary.summarize` take a workdir
too. `results.read_runs` gives its runs to anyone who wants other numbers, and may be handed on to all of
these but `replay`; `results.by_setting` tells apart those that must not be averaged or paired. Nothing
here imports a model, JAX or Flax: a workdir copied to any machine can be analysed there.
"""
