"""Real CIFAR-10 on a CPU: ResNet-20 on 2,500 training images, minutes instead of days.

Claim: with 90 % of the convolution weights removed, forks from the middle of training lose
nothing against the dense network; the earliest and the latest lose four to five points.
Command: python -m earlyprune_jax.main --config=configs/cifar10_small.py
Cost: 1 trunk of 24 epochs and 6 forks: 96 epochs of 39 steps, 17 minutes on 2 CPU
cores that ran tests beside it.
Expected (last-epoch accuracy on 1,000 test images, mean +- std, n = 3 with
--config.train.seeds=0,1,2; see results/README.md): dense 51.3 +- 1.9 %; forks at 2, 6, 10, 14, 18,
22: 47.4 +- 1.5, 49.8 +- 1.9, 51.4 +- 1.4, 50.8 +- 0.8, 49.3 +- 0.5, 46.1 +- 1.5. Both signals
still rise at the end: 24 epochs are too few for their peaks.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Every key of the experiment, as literals."""
    return ConfigDict(
        {
            "data": {
                "name": "cifar10",
                "data_dir": "",
                "num_classes": 10,
                "train_fractions": (0.05,),
                "validation_fraction": 0.0,
                "test_fraction": 0.1,
                "split_seed": 0,
                "crop_padding": 4,
                "horizontal_flip": True,
                "mean": (0.4914, 0.4822, 0.4465),
                "std": (0.247, 0.243, 0.261),
            },
            "model": {
                "names": ("resnet20",),
                "width_multiplier": 1.0,
            },
            "train": {
                "seeds": (0,),
                "num_epochs": 24,
                "batch_size": 64,
                "eval_batch_size": 500,
                "precision": "float32",
                "keep_checkpoints": "all",
            },
            "optim": {
                "learning_rate": 0.1,
                "momentum": 0.9,
                "nesterov": False,
                "weight_decay": 5e-4,
                "weight_decay_on": "all",
            },
            "schedule": {
                "names": ("exponential",),
                "per": "epoch",
                "exponential_decay_rate": 0.85,
                "end_learning_rate": 0.0,
                "step_boundaries_epochs": (10, 15),
                "step_factor": 0.1,
            },
            "pruning": {
                "criteria": ("magnitude",),
                "scopes": ("global",),
                "sparsities": (0.9,),
                "layers": "conv_kernels",
            },
            "fork": {
                "when": "epochs",
                "epochs": (2, 6, 10, 14, 18, 22),
                "trigger": "peak(fisher_trace, smoothing=3, patience=3)",
                "prune_at": "now",
                "fallback_epoch": 8,
                "rules": ("paper_a",),
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
                "num_examples": 500,
                "batch_size": 128,
                "augment": False,
                "max_overhead_fraction": 0.0,
                "fisher_estimator": "sampled",
                "fisher_method": "layerwise",
                "fisher_layers": "conv_kernels",
                "num_permutations": 5,
                "min_eigenvalues": 0,
            },
        }
    )
