"""Published numbers on when to prune, to try a rule on before any training: numbers only.

    >>> (run, *_) = dense_runs("fisher_trace")
    >>> run.dataset, run.num_seeds, run.peak_epoch
    ('cifar10', 3, 63)
    >>> curves = accuracy_curves("fisher_trace")
    >>> len(curves), len({curve.dense for curve in curves})
    (21, 7)

`python -m earlyprune_jax.published.replay` replays rules on all of them.

**Paper A** (E. Nunez, *Early Model Training Dynamics as a Guide for Early Model Compression*), in
paper_a_figures.json: every curve of figures 1 to 4 and 6 to 13, read from the vector graphics of
the author's own PDF, exact to about 0.02 points of accuracy and 1 in tr(F). One key a panel:
`prune_epochs`, `acc` (best test top-1 of the pruned runs, in %, one list a curve),
`baseline_best_top1`, and `metric` (the trace over convolution weights, or KL_uniform in bits). What
to know of them:

- An accuracy is the largest of all the epochs after pruning, on test images: an optimistic one.
- Panels 4c (global) and 12c (local) are the same numbers point for point. One of the two must be a
  mistake of the source, so they count as one curve, with the scope of 4c.
- One dense run serves figures 3, 4b, 6a, 7a, 11, 12b and 13a (CIFAR-10, 1 seed); its curves at 80 %
  stand in several panels and count once. Figures 1 and 9 are means of 3 seeds, other than that run.
- Figures 2 and 10 show neither a signal nor a dense accuracy. There the curve labelled ResNet-56
  lies below that of ResNet-44.
- Figures 7 and 8 do not say how they prune: as the rest of the text, 80 % and global, is assumed.
- Late forks restart their schedule from a lower rate (Eq. 6) and under the exponential schedule end
  at higher rates than early ones. That "early is best" is partly a matter of annealing.
- No dense run has both signals: tr(F) under the cosine and linear schedules is of CIFAR-10,
  KL_uniform is of CIFAR-100.

**The three-regime model** (follow-up of paper B; *A Three-regime Model of Network Pruning*, ICML
2023), in three_regime_test_error.csv: test error of PreResNet-20 on CIFAR-10 by epoch of dense
training and density, from the published heat map, exact to 0.1 points. Retrained for 160 epochs
from a rate of 0.1, divided by 10 at 80 and 120; mean of the last 5 epochs, of 3 x 3 seeds. Paper B
itself has published no numbers.
"""

from earlyprune_jax.published.curves import AccuracyCurve as AccuracyCurve
from earlyprune_jax.published.curves import DenseRun as DenseRun
from earlyprune_jax.published.curves import accuracy_curves as accuracy_curves
from earlyprune_jax.published.curves import dense_runs as dense_runs
from earlyprune_jax.published.curves import three_regime_errors as three_regime_errors
