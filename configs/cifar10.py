"""Paper A's family: ResNets on CIFAR, forks leave every trunk at several epochs; are early ones the
best?

`cifar10.py`: figure 1a, ResNet-18 on CIFAR-10, pruned to 80 % sparsity at every 20th epoch of 200.
Claim: pruning near the peak of tr(F), a third of the way through training, costs nothing.
Command: python -m earlyprune_jax.main --config=configs/cifar10.py
Cost: 3 trunks of 200 epochs and 27 forks of 20 to 180 epochs: 3,300 epochs of 390 steps; about
6 GB of checkpoints. An accelerator is needed.
Published (best test top-1 over epochs, n = 3): dense 95.33 +- .06 %; forks at 20, 40, ..., 180:
95.08 95.33 95.40 95.38 95.20 95.15 94.68 93.93 93.45; tr(F) of the conv kernels peaks at 63.
Late forks end at higher learning rates under the paper's retraining: for the control that anneals
all forks to the same rate add --config.fork.retraining=paper_a,matched_anneal

`cifar10.py:cifar100`: figure 1b, the same on CIFAR-100; see cifar100.py.

`cifar10.py:small`: real CIFAR-10 on a CPU, ResNet-20 on 2,500 training images, minutes instead of
days. Claim: with 90 % of the convolution weights removed, forks from the middle of training lose
nothing against the dense network; the earliest and the latest lose four to five points.
Command: python -m earlyprune_jax.main --config=configs/cifar10.py:small
Cost: 1 trunk of 24 epochs and 6 forks: 96 epochs of 39 steps, 17 minutes on 2 CPU
cores that ran tests beside it.
Expected (last-epoch accuracy on 1,000 test images, mean +- std, n = 3 with
--config.train.seeds=0,1,2; see results/README.md): dense 51.3 +- 1.9 %; forks at 2, 6, 10, 14, 18,
22: 47.4 +- 1.5, 49.8 +- 1.9, 51.4 +- 1.4, 50.8 +- 0.8, 49.3 +- 0.5, 46.1 +- 1.5. Both signals
still rise at the end: 24 epochs are too few for their peaks.

`cifar10.py:signals`: the same images with every signal: which of them marks the right moment to
prune? ResNet-8 without augmentation fits them all by epoch 30, so that signals which turn when
fitting ends have time to turn. 90 % of the convolution weights are removed.
Claim: early is best (epochs 1 to 10 of 40), and no signal's peak marks it: a fixed 10 % does as
well. Command: python -m earlyprune_jax.main --config=configs/cifar10.py:signals
--config.data.data_dir=DIR The run that decides by itself: add --config.fork.when=trigger
Cost: 3 trunks of 40 epochs and 30 forks, 825 epochs of 39 steps: 57 minutes on 2 CPU cores with
other work beside it; by itself: 120 epochs, 8 minutes.
Expected (last-epoch accuracy on 1,000 test images, mean +- std, n = 3; see results/README.md):
dense 50.6 +- 0.9 %; forks at 1, 3, 6, 10, 14, 18, 22, 26, 30, 35: 47.9 +- 1.9, 49.0 +- 1.0, 50.2 +-
1.2, 49.9 +- 0.6, 48.4 +- 1.3, 48.3 +- 0.2, 49.0 +- 1.5, 46.6 +- 1.0, 47.2 +- 0.4, 45.8 +- 2.8;
tr(F) peaks at 17.
"""

from typing import Any

from ml_collections import ConfigDict

FEW_IMAGES = {
    "data.train_fraction": 0.05,
    "data.test_fraction": 0.1,
    "train.batch_size": 64,
    "train.keep_checkpoints": "all",
    "schedule.step_boundaries_epochs": (10, 15),
    "pruning.sparsities": (0.9,),
    "pruning.num_examples": 500,
    "signals.num_examples": 500,
    "signals.max_overhead_fraction": 0.0,
    "signals.mask_sparsity": 0.9,
}

FORMS = {
    "": {},
    "cifar100": {"data.name": "cifar100", "data.num_classes": 100},
    "small": {
        **FEW_IMAGES,
        "model.name": "resnet20",
        "train.seeds": (0,),
        "train.num_epochs": 24,
        "schedule.exponential_decay_rate": 0.85,
        "fork.epochs": (2, 6, 10, 14, 18, 22),
        "fork.fallback_epoch": 8,
    },
    "signals": {
        **FEW_IMAGES,
        "data.validation_fraction": 0.02,
        "data.crop_padding": 0,
        "data.horizontal_flip": False,
        "model.name": "resnet8",
        "train.num_epochs": 40,
        "schedule.exponential_decay_rate": 0.92,
        "fork.epochs": (1, 3, 6, 10, 14, 18, 22, 26, 30, 35),
        "fork.fallback_epoch": 30,
        "signals.names": (
            "fisher_trace",
            "kl_uniform",
            "random_distance",
            "mask_distance",
            "weight_change",
            "gradient_norm",
            "performance",
        ),
    },
}


def get_config(form: str = "") -> ConfigDict:
    """Gives every key of the experiment, as literals; a form changes some."""
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
                "seeds": (0, 1, 2),
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
        }
    )
    return in_form(config, form, FORMS)


def in_form(config: ConfigDict, form: str, forms: dict[str, dict[str, Any]]) -> ConfigDict:
    """Changes the keys of a form.

    Args:
        config: changed in place.
        form: its name; empty = none.
        forms: name -> keys and values.

    Raises:
        ValueError: there is no such form.
    """
    if form not in forms:
        names = ", ".join(filter(None, forms))
        raise ValueError(f"Expected form {form!r} to be one of {names}, or none.")
    config.update_from_flattened_dict(forms[form])
    return config
