"""Reading a workdir: tables, signal peaks, rules replayed, figures, the closing summary.

Public names: `results.write_tables`, `rules.write`, `rules.replay`,
`figures.draw_accuracy_vs_fork_epoch`, `summary.summarize` take a workdir; `results.read_runs` gives
its runs to anyone who wants other numbers. Nothing here imports a model, JAX or Flax: a workdir
copied to any machine can be analysed there.
"""
