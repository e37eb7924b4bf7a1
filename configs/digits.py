"""First look: a ResNet-8 on scikit-learn's handwritten digits, on a laptop in minutes.

Claim: at 97 % sparsity, pruning after a fifth to a third of training beats pruning at its very
start or in its last third.
Command: python -m earlyprune_jax.main --config=configs/digits.py --workdir=runs/digits
Cost: 3 trunks of 40 epochs and 27 forks: 825 epochs of 9 steps; 101 s on 2 CPU cores, 53 MB. The
signals, on all images, take three times as long as a trunk's training: max_overhead_fraction=0 is
no limit. Expected (last-epoch test accuracy, mean +- std, n = 3): dense 97.7 +- 0.3 %; forks at 1,
2, 4, 8, 12, 16, 20, 28, 34: 87.7 +- 5.4, 88.4 +- 2.8, 91.3 +- 1.1, 92.1 +- 1.8, 92.0 +- 1.9, 92.3
+- 0.6, 90.1 +- 2.6, 88.2 +- 2.2, 79.5 +- 2.8; tr(F) peaks at epoch 2.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Gives every key of the experiment, as literals."""
    return ConfigDict(
        {
            "data": {
                "name": "digits",
                "data_dir": "",
                "num_classes": 10,
                "train_fraction": 0.625,
                "validation_fraction": 0.2,
                "test_fraction": 1.0,
                "split_seed": 0,
                "image_size": 0,
                "crop_padding": 1,
                "horizontal_flip": False,
                "mean": (0.3,),
                "std": (0.38,),
            },
            "model": {"name": "resnet8", "width_multiplier": 0.75},
            "task": {"name": "classification"},
            "train": {
                "seeds": (0, 1, 2),
                "num_epochs": 40,
                "batch_size": 64,
                "eval_batch_size": 256,
                "precision": "float32",
                "keep_checkpoints": "all",
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
                "exponential_decay_rate": 0.856,
                "end_learning_rate": 0.0,
                "step_boundaries_epochs": (20, 30),
                "step_factor": 0.1,
                "warmup_steps": 4000,
            },
            "pruning": {
                "criteria": ("magnitude",),
                "scopes": ("global",),
                "sparsities": (0.97,),
                "layers": "conv_kernels",
                "num_examples": 0,
                "batch_size": 100,
            },
            "fork": {
                "when": "epochs",
                "epochs": (1, 2, 4, 8, 12, 16, 20, 28, 34),
                # tr(F) is largest in the first tenth, over which the default would average.
                "trigger": "peak(fisher_trace, smoothing=1)",
                "prune_at": "now",
                "fallback_epoch": 12,
                "retraining": ("paper_a",),
                "length": 0,
                "rates": "eq6",
                "num_replicates": 1,
                "constant_learning_rate": 1e-3,
                "constant_num_epochs": 10,
                "comparisons": (),
                "baselines": (),
                "search": "all",
                "max_cells": 0,
            },
            "signals": {
                "names": (
                    "fisher_trace",
                    "kl_uniform",
                    "random_distance",
                    "mask_distance",
                    "weight_change",
                    "gradient_norm",
                    "performance",
                ),
                "num_examples": 0,
                "batch_size": 100,
                "augment": False,
                "max_overhead_fraction": 0.0,
                "fisher_estimator": "sampled",
                "fisher_method": "layerwise",
                "fisher_layers": "conv_kernels",
                "mask_criterion": "magnitude",
                "mask_scope": "global",
                "mask_sparsity": 0.97,
                "weight_layers": "conv_kernels",
                "num_permutations": 5,
                "min_eigenvalues": 0,
            },
            "figure": {"name": "", "scale": "full", "changed": (), "varied": ()},
        }
    )
