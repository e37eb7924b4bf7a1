"""Paper B, figures 4 (first row), 5a, 9: the two regimes against depth.

Claim: the deeper the network, the later the best moment to prune it; of deep ones none is early.
Command: python -m earlyprune_jax.main --config=configs/two_regime_depth.py
Cost: 5 trunks of 160 epochs and 5 x 432 forks of 40, on an accelerator. Figure 4 shows PreResNet-44, the
text lists 38 instead: both are here. Other networks that these names mean in related code: add _lottery
or _rethinking to every name. On a CPU: two_regime_depth.py:small, PreResNet-8, -14 and -20 on 2,450 images,
without model similarity: 720 epochs of 38 steps, 35 minutes in 2 workers on 2 cores with tests beside.
"""

from ml_collections import ConfigDict

FORMS = {
    "": {},
    "small": {
        "data.train_fractions": (0.05,),
        "model.names": ("preresnet8", "preresnet14", "preresnet20"),
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
                "train_fractions": (1.0,),
                "validation_fraction": 0.0,
                "test_fraction": 1.0,
                "split_seed": 0,
                "crop_padding": 4,
                "horizontal_flip": True,
                "mean": (0.4914, 0.4822, 0.4465),
                "std": (0.2023, 0.1994, 0.201),
            },
            "model": {
                "names": ("preresnet20", "preresnet38", "preresnet44", "preresnet56", "preresnet110"),
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
