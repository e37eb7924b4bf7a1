"""Paper A, figure 1a: ResNet-18 on CIFAR-10, pruned to 80 % sparsity at every 20th epoch of 200.

Claim: pruning near the peak of tr(F), a third of the way through training, costs nothing.
Command: python -m earlyprune_jax.main --config=configs/cifar10.py
Cost: 3 trunks of 200 epochs and 27 forks of 20 to 180 epochs: 3,300 epochs of 390 steps; about
6 GB of checkpoints. An accelerator is needed.
Published (best test top-1 over epochs, n = 3): dense 95.33 +- .06 %; forks at 20, 40, ..., 180:
95.08 95.33 95.40 95.38 95.20 95.15 94.68 93.93 93.45; tr(F) of the conv kernels peaks at 63.
Late forks end at higher learning rates under the paper's rule: for the control that anneals all
forks to the same rate add --config.fork.rules=paper_a,matched_anneal
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
                "train_fractions": (1.0,),
                "validation_fraction": 0.0,
                "test_fraction": 1.0,
                "split_seed": 0,
                "crop_padding": 4,
                "horizontal_flip": True,
                "mean": (0.4914, 0.4822, 0.4465),
                "std": (0.247, 0.243, 0.261),
            },
            "model": {
                "names": ("resnet18",),
                "width_multiplier": 1.0,
            },
            "train": {
                "seeds": (0, 1, 2),
                "num_epochs": 200,
                "batch_size": 128,
                "eval_batch_size": 500,
                "precision": "float32",
                "keep_checkpoints": "fork_epochs",
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
                "exponential_decay_rate": 0.97,
                "end_learning_rate": 0.0,
                "step_boundaries_epochs": (100, 150),
                "step_factor": 0.1,
            },
            "pruning": {
                "criteria": ("magnitude",),
                "scopes": ("global",),
                "sparsities": (0.8,),
                "layers": "conv_kernels",
            },
            "fork": {
                "when": "epochs",
                "epochs": (20, 40, 60, 80, 100, 120, 140, 160, 180),
                "trigger": "peak(fisher_trace, smoothing=5, patience=10)",
                "prune_at": "now",
                "fallback_epoch": 100,
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
