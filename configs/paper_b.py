"""Paper B, a form for each of its figures: train t epochs, prune, fine-tune; which t is best?

Y. Zhou et al., UCB/EECS-2023-51. PreResNets on CIFAR-10, pruned after every 10th epoch of 160,
fine-tuned 40; a Transformer on WMT14. A form is named after a figure or, with its letter, a panel.
Command: earlyprune run paper_b:fig3a        (paper_b alone is fig2)
Figures of one data set and scale share a workdir, runs/paper_b-DATA-SCALE: the next one trains only
what is missing. The report gives no numbers and no list of prune ratios: these are the densities of
the follow-up's published grid, which is another protocol (follow_up). Costs are epochs of 781
steps, each figure by itself; an accelerator is needed, or --scale=short.

fig2, fig3a, fig8a    Claim: heavily pruned, an early t is best; lightly, a converged one. Figure 8a
                      is 3a not normalised, 2 shows its rows. 17,440 epochs: 1 trunk and 432 forks.
fig6                  Claim: similarity between fine-tuning seeds tells the two regimes apart.
fig7a (first row)     Claim: random_distance peaks at the best t of heavily pruned networks.
fig10                 Claim: training has converged after 90 epochs.
fig4a ... d, fig9a    Claim: the deeper the network, the later the best moment; depths 110, 56, 44,
 ... d, fig5a         20, in figure 5 also 38, as the text says. 4 (5) times figure 2.
fig4e ... h, fig9e    Claim: the more data, the earlier; 1, 5, 10, 100 % of the images. 1.16 times
 ... h, fig5b         the steps of figure 2. Subsets are stratified, the smaller within the larger.
fig3b, fig7b, fig8b   Claim: translation has both regimes, and a region between where both are as
                      good; random_distance peaks there too. See translation.py. Test set 2014.
fig3, fig7, fig8      their vision half: translation is another study.

Controls, beside fig2 in its workdir:
constant_rate         a trunk whose rate never drops: the break sits at epoch 80, on the first drop.
sparse_from_start     pruned before training, by magnitude and at random, and at the end, at the
                      same budget: fork.baselines.
follow_up             the follow-up's protocol, in a workdir of its own: forks retrained for 160
                      epochs from 0.1, divided by 10 at 80 and 120; its published grid stands beside
                      it. 1 trunk of 160 epochs, 432 forks of 160.

Other networks that PreResNet-20 ... mean in related code: _lottery or _rethinking behind the name.
--scale=short: SHORT below; of translation Multi30k (translation.py:multi30k_small). --scale=smoke:
tests.
"""

from typing import Any

from ml_collections import ConfigDict

from . import _forms, paper_a, translation

PAPER_B = {
    "data.std": (0.2023, 0.1994, 0.201),
    "model.name": "preresnet20",
    "train.seeds": (0,),
    "train.num_epochs": 160,
    "train.batch_size": 64,
    "optim.weight_decay": 1e-4,
    "schedule.name": "step",
    "schedule.step_boundaries_epochs": (80, 120),
    "pruning.scopes": ("uniform",),
    "pruning.sparsities": (0.95, 0.94, 0.93, 0.92, 0.9, 0.86, 0.8, 0.6, 0.2),
    "fork.epochs": tuple(range(10, 161, 10)),
    "fork.trigger": "peak(random_distance)",
    "fork.fallback_epoch": 80,
    "fork.retraining": ("constant",),
    "fork.num_replicates": 3,
    "fork.comparisons": ("model_similarity", "disagreement"),
    "signals.names": ("random_distance", "fisher_trace", "kl_uniform"),
    "signals.mask_scope": "uniform",
    "signals.mask_sparsity": 0.95,
}

DEPTHS = ("preresnet20", "preresnet38", "preresnet44", "preresnet56", "preresnet110")
FRACTIONS = (0.01, 0.05, 0.1, 1.0)
ROW_OF_DEPTHS = ("preresnet110", "preresnet56", "preresnet44", "preresnet20")
PANELS = (
    *({"model.name": name, "data.train_fraction": 1.0} for name in ROW_OF_DEPTHS),
    *({"model.name": "preresnet20", "data.train_fraction": part} for part in FRACTIONS),
)
"""The panels of figures 4 and 9, a to h: d and h are one."""
TRANSLATION = ("fig3b", "fig7b", "fig8b")


def _scaled_axes(name: str) -> dict[str, dict[str, Any]]:
    """Makes the forms of a figure of depths and amounts of data: the whole, and each by letter."""
    letters = {f"{name}{letter}": panel for letter, panel in zip("abcdefgh", PANELS, strict=True)}
    return {name: {"sweep": {"rows": PANELS[:-1]}}, **letters}


FORMS: dict[str, dict[str, Any]] = {
    **{f"fig{figure}": {} for figure in ("2", "3", "3a", "6", "7", "7a", "8", "8a", "10")},
    **_scaled_axes("fig4"),
    "fig5": {
        "sweep": {
            "rows": (
                *({"model.name": name, "data.train_fraction": 1.0} for name in DEPTHS),
                *PANELS[4:-1],
            )
        }
    },
    "fig5a": {"sweep": {"model": {"name": DEPTHS}}},
    "fig5b": {"sweep": {"data": {"train_fraction": FRACTIONS}}},
    **_scaled_axes("fig9"),
    **{form: {} for form in TRANSLATION},
    "constant_rate": {"schedule.name": "constant"},
    "sparse_from_start": {
        "fork.baselines": ("prune_at_init", "prune_at_end", "random_at_init", "random_at_end")
    },
    "follow_up": {
        "train.seeds": (0, 1, 2),
        "fork.retraining": ("custom",),
        "fork.length": 160,
        "fork.rates": "restart",
    },
}

VARIED = ("model.name", "data.train_fraction", "schedule.name")

SMALLER = {
    **{"preresnet20": "preresnet8", "preresnet38": "preresnet14", "preresnet44": "preresnet20"},
    **{"preresnet56": "preresnet38", "preresnet110": "preresnet44"},
}
SHORT = _forms.Scale(
    num_epochs=32,
    values={
        "model.name": SMALLER,
        "data.train_fraction": {0.01: 0.002, 0.05: 0.005, 0.1: 0.01, 1.0: 0.1},
    },
    changes={**paper_a.SHORT.changes, "fork.constant_learning_rate": 0.01},
)
SMOKE = _forms.Scale(
    num_epochs=4,
    values={
        "model.name": dict.fromkeys(DEPTHS, "preresnet8") | {"preresnet110": "preresnet14"},
        "data.train_fraction": {0.01: 0.2, 0.05: 0.3, 0.1: 0.4, 1.0: 0.5},
    },
    changes={**_forms.FEW_DIGITS, "pruning.sparsities": (0.95, 0.5), "fork.num_replicates": 2},
    data_sets=_forms.DIGITS,
)
NUMERALS = {
    "data.name": "numerals(num_pairs=300, num_held_out=20, vocabulary_size=90)",
    "model.name": "transformer(num_layers=1, width=16, num_heads=2, feed_forward_width=32)",
    "task.name": "translation(beam=2, extra_length=5, score_every=4)",
    "train.num_epochs": 4,
    "train.batch_size": 400,
    "fork.epochs": (1, 2, 4),
    "fork.length": 1,
    "fork.fallback_epoch": 2,
    "signals.num_examples": 20,
}
"""Translation in seconds."""


def get_config(form: str = "fig2", scale: str = "full") -> ConfigDict:
    """Gives paper_a.py with paper B's keys, or translation.py's; a form and a scale change some."""
    if form in TRANSLATION:
        small = {"short": "multi30k_small", "smoke": "numerals"}
        config = translation.get_config(small.get(scale, "wmt14"))
        config.update_from_flattened_dict(NUMERALS if scale == "smoke" else {})
    else:
        config = paper_a.get_config()
        config.update_from_flattened_dict(PAPER_B)
        _forms.in_form(config, form, FORMS)
        _forms.scaled(config, {"short": SHORT, "smoke": SMOKE}.get(scale))
    figure = {"figure.name": f"B {form.removeprefix('fig')}", "figure.varied": VARIED}
    config.update_from_flattened_dict(figure)
    return config
