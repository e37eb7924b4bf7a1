"""Paper B, figures 4 (second row), 5b, 9: the two regimes against the amount of training data.

Claim: the more data, the earlier the best moment to prune; with 1 % of CIFAR-10 none is early.
Command: python -m earlyprune_jax.main --config=configs/two_regime_data.py
Cost: 4 trunks of 160 epochs and 4 x 432 forks of 40 on 1, 5, 10 and 100 % of the images: 1.16 times the
steps of the grid on all of them. Subsets are stratified, the smaller within the larger.
On a CPU: two_regime_data.py:small, PreResNet-8 on 2, 5 and 10 %, without model similarity: 720 epochs of 15
to 76 steps, 18 minutes in 2 workers on 2 cores.
"""

from ml_collections import ConfigDict

FORMS = {
    "": {},
    "small": {
        "data.train_fractions": (0.02, 0.05, 0.1),
        "model.names": ("preresnet8",),
        "data.validation_fraction": 0.02,
        "data.test_fraction": 0.1,
        "model.width_multiplier": 0.5,
        "train.seeds": (0, 1, 2),
        "train.num_epochs": 20,
        "schedule.step_boundaries_epochs": (10, 15),
        "pruning.sparsities": (0.95, 0.8, 0.4),
        "fork.epochs": (4, 8, 12, 16, 20),
        "fork.fallback_epoch": 10,
        "fork.num_replicates": 1,
        "fork.comparisons": (),
        "fork.constant_learning_rate": 0.01,
        "fork.constant_num_epochs": 4,
        "signals.names": ("random_distance", "kl_uniform"),
        "signals.num_examples": 500,
        "signals.max_overhead_fraction": 0.0,
    },
}


def get_config(form: str = "") -> ConfigDict:
    """Every key of the experiment, as literals; a form changes some."""
    config = ConfigDict(
        {
            "data": {
                "name": "cifar10",
                "data_dir": "",
                "num_classes": 10,
                "train_fractions": (0.01, 0.05, 0.1, 1.0),
                "validation_fraction": 0.0,
                "test_fraction": 1.0,
                "split_seed": 0,
                "crop_padding": 4,
                "horizontal_flip": True,
                "mean": (0.4914, 0.4822, 0.4465),
                "std": (0.2023, 0.1994, 0.201),
            },
            "model": {
                "names": ("preresnet20",),
                "width_multiplier": 1.0,
            },
            "train": {
                "seeds": (0,),
                "num_epochs": 160,
                "batch_size": 64,
                "eval_batch_size": 500,
                "precision": "float32",
                "keep_checkpoints": "fork_epochs",
            },
            "optim": {
                "learning_rate": 0.1,
                "momentum": 0.9,
                "nesterov": False,
                "weight_decay": 1e-4,
                "weight_decay_on": "all",
            },
            "schedule": {
                "names": ("step",),
                "per": "epoch",
                "exponential_decay_rate": 0.97,
                "end_learning_rate": 0.0,
                "step_boundaries_epochs": (80, 120),
                "step_factor": 0.1,
            },
            "pruning": {
                "criteria": ("magnitude",),
                "scopes": ("uniform",),
                "sparsities": (0.95, 0.94, 0.93, 0.92, 0.9, 0.86, 0.8, 0.6, 0.2),
                "layers": "conv_kernels",
            },
            "fork": {
                "when": "epochs",
                "epochs": (10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120, 130, 140, 150, 160),
                "trigger": "peak(random_distance, smoothing=5, patience=10)",
                "prune_at": "now",
                "fallback_epoch": 80,
                "rules": ("constant",),
                "num_replicates": 3,
                "constant_learning_rate": 1e-3,
                "constant_num_epochs": 40,
                "comparisons": ("model_similarity", "disagreement"),
                "baselines": (),
                "search": "all",
                "max_cells": 0,
            },
            "signals": {
                "names": ("random_distance", "fisher_trace", "kl_uniform"),
                "num_examples": 0,
                "batch_size": 128,
                "augment": False,
                "max_overhead_fraction": 0.05,
                "fisher_estimator": "sampled",
                "fisher_method": "layerwise",
                "fisher_layers": "conv_kernels",
                "num_permutations": 5,
                "min_eigenvalues": 0,
            },
        }
    )
    if form not in FORMS:
        raise ValueError(f"Expected form {form!r} to be one of {', '.join(filter(None, FORMS))}, or none.")
    config.update_from_flattened_dict(FORMS[form])
    return config
