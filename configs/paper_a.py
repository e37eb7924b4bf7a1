"""Paper A, a form for each of its figures: ResNets on CIFAR, pruned at every 20th epoch of 200.

E. Nunez, "Early Model Training Dynamics as a Guide for Early Model Compression". A form is named
after a figure, with or without the letter of a panel: fig6 is fig6a, fig6b and fig6c.
Command: earlyprune run paper_a:fig1a        (paper_a alone is fig1a)
Figures of one data set and scale share a workdir, runs/paper_a-DATA-SCALE: the next one trains only
what is missing. fig1 and fig9, of both data sets, go to CIFAR-10's; their panels each to its own.
Costs are epochs of 390 steps, each figure by itself; docs/reproduce.md has hours, and published
numbers beside ours. An accelerator is needed; `--scale=short` is for two cores, below.
All accuracies: best test top-1 over epochs, chosen on test, in %. Forks at 20, 40, ..., 180.

fig1a, fig1b  Claim: pruning near the peak of tr(F), a third of the way, costs (next to) nothing.
              3 seeds, 3,300 epochs each. CIFAR-10, dense 95.33 +- .06: 95.08 95.33 95.40 95.38
              95.20 95.15 94.68 93.93 93.45, tr(F) peaks at 63; CIFAR-100, dense 77.29 +- .15: 75.84
              76.45 76.68 76.49 76.37 76.03 75.68 74.78 73.37, tr(F) peaks at 50.
fig2, fig10   Claim: early is best at every size; ResNet-20 ... -110, global and local. 5,500
              epochs. ResNet-20 90.34 90.94 91.13 91.31 90.45 90.47 89.91 89.60 88.79.
fig3, fig11   Claim: at every sparsity, 70 ... 95 %, the best epoch is near the peak. 3,800 epochs.
fig4, fig12   Claim: the worse the fit, the later the peak; weight decay 5e-3 (a), 5e-4 (b), 5e-5
              (c). 3,300 epochs. tr(F) peaks at 141, 76, 29; best forks at 20, 80, 60 (fig4).
fig5          The three schedules, drawn; nothing is trained.
fig6, fig13   Claim: the schedule moves the peak and the best epoch; exponential (a), cosine (b),
              linear (c). 3,300 epochs. tr(F) peaks at 76, 151, 160; best forks at 80, 120, 140.
fig7a, fig7b  Claim: the same holds for pruning by Fisher information. Exponential, cosine.
              2,200 epochs. Best forks at 40 and 120, the peaks at 76 and 151.
fig8a ... c   Claim: KL_uniform's peak marks the best epoch too; CIFAR-100, three schedules.
              3,300 epochs. KL_uniform peaks at 62, 154, 155; best forks at 100, 140, 180.
fig9a, fig9b  Figure 1 with local pruning.

Controls, beside fig1a in its workdir:
matched_anneal     every fork ends at the dense run's last rate: late ones do not by Eq. (6).
sparse_from_start  pruned before training, by magnitude and at random, at the same budget.
fixed_fraction     a run that prunes itself at 30 % of training, whatever the signals say; in a
                   workdir of its own. Replays of the others have it as [fixed 30 %].

--scale=short: SHORT below; docs/reproduce.md says what was tried, and what chose it. Figure 1a of
one seed: 330 epochs of 39 steps, 23 minutes of one core of an AMD EPYC beside other work.
--scale=smoke: seconds, for tests.
"""

from typing import Any

from ml_collections import ConfigDict

from . import _forms

CIFAR100 = {"data.name": "cifar100", "data.num_classes": 100}
DATA_SETS = ({"data.name": "cifar10", "data.num_classes": 10}, CIFAR100)
SIZES = {
    "sweep": {"model": {"name": ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")}}
}
SPARSITIES = {"pruning.sparsities": (0.7, 0.8, 0.9, 0.95)}
DECAYS, SCHEDULES = (5e-3, 5e-4, 5e-5), ("exponential", "cosine", "linear")
LOCAL = {"pruning.scopes": ("local",)}
FISHER = {"pruning.criteria": ("fisher",)}
THREE_SEEDS = {"train.seeds": (0, 1, 2)}


def _panels(name: str, key: str, values: tuple[Any, ...], **same: Any) -> dict[str, dict[str, Any]]:
    """Makes the forms of a figure whose panels differ in one key: the whole, and each by letter."""
    letters = {f"{name}{letter}": {key: v} for letter, v in zip("abc", values, strict=False)}
    section, leaf = key.split(".")
    every = {name: {"sweep": {section: {leaf: values}}}, **letters}
    return {form: {**same, **changes} for form, changes in every.items()}


def _data_sets(name: str, **same: Any) -> dict[str, dict[str, Any]]:
    """Makes the forms of a figure with a panel for each data set."""
    panels = {name: {"sweep": {"rows": DATA_SETS}}, f"{name}a": {}, f"{name}b": CIFAR100}
    return {form: {**THREE_SEEDS, **same, **changes} for form, changes in panels.items()}


FORMS: dict[str, dict[str, Any]] = {
    **_data_sets("fig1"),
    "fig2": SIZES,
    "fig3": SPARSITIES,
    **_panels("fig4", "optim.weight_decay", DECAYS),
    "fig5": {"sweep": {"schedule": {"name": SCHEDULES}}, "train.seeds": ()},
    **_panels("fig6", "schedule.name", SCHEDULES),
    **_panels("fig7", "schedule.name", SCHEDULES[:2], **FISHER),
    **_panels("fig8", "schedule.name", SCHEDULES, **CIFAR100),
    **_data_sets("fig9", **LOCAL),
    "fig10": {**SIZES, **LOCAL},
    "fig11": {**SPARSITIES, **LOCAL},
    **_panels("fig12", "optim.weight_decay", DECAYS, **LOCAL),
    **_panels("fig13", "schedule.name", SCHEDULES, **LOCAL),
    "matched_anneal": {**THREE_SEEDS, "fork.retraining": ("paper_a", "matched_anneal")},
    "sparse_from_start": {
        **THREE_SEEDS,
        "fork.epochs": (0,),
        "pruning.criteria": ("magnitude", "random"),
    },
    "fixed_fraction": {
        **THREE_SEEDS,
        "fork.when": "trigger",
        "figure.name": "",
    },
}

VARIED = (
    *("data.name", "data.num_classes", "data.split_seed"),
    *("model.name", "optim.weight_decay", "schedule.name"),
)

SMALLER = {
    "resnet18": "resnet8",
    **{"resnet20": "resnet8", "resnet32": "resnet14", "resnet44": "resnet20"},
    **{"resnet56": "resnet32", "resnet110": "resnet44"},
}
SHORT = _forms.Scale(
    num_epochs=60,
    values={"model.name": SMALLER},
    changes={
        "data.image_size": 16,
        "data.train_fraction": 0.1,
        "data.crop_padding": 0,
        "data.horizontal_flip": False,
        "signals.max_overhead_fraction": 0.0,
    },
)
SMOKE = _forms.Scale(
    num_epochs=5,
    values={"model.name": dict.fromkeys(SMALLER, "resnet8") | {"resnet110": "resnet14"}},
    changes=_forms.FEW_DIGITS,
    data_sets=_forms.DIGITS,
)


def get_config(form: str = "fig1a", scale: str = "full") -> ConfigDict:
    """Gives every key of the experiment, as literals; a form and a scale change some."""
    config = ConfigDict(
        {
            "data": {
                "name": "cifar10",
                "data_dir": "",
                "num_classes": 10,
                "train_fraction": 1.0,
                "validation_fraction": 0.0,
                "test_fraction": 1.0,
                "split_seed": 0,
                "image_size": 0,
                "crop_padding": 4,
                "horizontal_flip": True,
                "mean": (0.4914, 0.4822, 0.4465),
                "std": (0.247, 0.243, 0.261),
            },
            "model": {
                "name": "resnet18",
                "width_multiplier": 1.0,
            },
            "task": {"name": "classification"},
            "train": {
                "seeds": (0,),
                "num_epochs": 200,
                "batch_size": 128,
                "eval_batch_size": 500,
                "precision": "float32",
                "keep_checkpoints": "fork_epochs",
            },
            "optim": {
                "name": "sgd",
                "learning_rate": 0.1,
                "momentum": 0.9,
                "nesterov": False,
                "weight_decay": 5e-4,
                "weight_decay_on": "all",
            },
            "schedule": {
                "name": "exponential",
                "per": "epoch",
                "exponential_decay_rate": 0.97,
                "end_learning_rate": 0.0,
                "step_boundaries_epochs": (100, 150),
                "step_factor": 0.1,
                "warmup_steps": 4000,
            },
            "pruning": {
                "criteria": ("magnitude",),
                "scopes": ("global",),
                "sparsities": (0.8,),
                "layers": "conv_kernels",
                "num_examples": 0,
                "batch_size": 128,
            },
            "fork": {
                "when": "epochs",
                "epochs": (20, 40, 60, 80, 100, 120, 140, 160, 180),
                "trigger": "peak(fisher_trace)",
                "prune_at": "now",
                "fallback_epoch": 100,
                "retraining": ("paper_a",),
                "length": 0,
                "rates": "eq6",
                "num_replicates": 1,
                "constant_learning_rate": 1e-3,
                "constant_num_epochs": 40,
                "comparisons": (),
                "baselines": (),
                "search": "all",
                "max_cells": 0,
            },
            "signals": {
                "names": ("fisher_trace", "kl_uniform"),
                "num_examples": 0,
                "batch_size": 128,
                "augment": False,
                "max_overhead_fraction": 0.05,
                "fisher_estimator": "sampled",
                "fisher_method": "layerwise",
                "fisher_layers": "conv_kernels",
                "mask_criterion": "magnitude",
                "mask_scope": "global",
                "mask_sparsity": 0.8,
                "weight_layers": "conv_kernels",
                "num_permutations": 5,
                "min_eigenvalues": 0,
            },
            "figure": {
                "name": f"A {form.removeprefix('fig')}",
                "scale": "full",
                "changed": (),
                "varied": VARIED,
            },
        }
    )
    _forms.in_form(config, form, FORMS)
    _forms.scaled(config, {"short": SHORT, "smoke": SMOKE}.get(scale))
    if form == "fixed_fraction":
        epoch = round(0.3 * config.to_dict()["train"]["num_epochs"])
        config.update_from_flattened_dict({"fork.trigger": f"epoch({epoch})"})
    return config
