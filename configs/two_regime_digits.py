"""Paper B's two regimes in miniature: PreResNet-8 on scikit-learn's handwritten digits, on a laptop.

Claim: with 20 to 80 % removed it hardly matters when, after convergence, a network is pruned; with 90
and 95 % an intermediate epoch is best by 2.7 points. Whether that is more than noise three seeds cannot say.
Command: python -m earlyprune_jax.main --config=configs/two_regime_digits.py --workers=2
Cost: 3 trunks of 40 epochs, 360 forks of 10 and 120 comparisons: 3,720 epochs of 9 steps; on 2 CPU cores 5.5
minutes in one process with little beside it, 4.8 in 2 workers with much. Fine-tuning runs at 0.01, not at
paper B's 0.001: ten epochs are 90 steps here, not 31,240.
Expected (last-epoch test accuracy of the best epoch, mean over 3 seeds x 3 replicates): 97.9 % at 20 %
removed, 97.3 at 50, 92.2 at 80, 82.3 at 90, 63.6 at 95; dense 98.1 +- 0.5 %. See results/README.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Every key of the experiment, as literals."""
    return ConfigDict(
        {
            "data": {
                "name": "digits",
                "data_dir": "",
                "num_classes": 10,
                "train_fractions": (0.625,),
                "validation_fraction": 0.2,
                "test_fraction": 1.0,
                "split_seed": 0,
                "crop_padding": 1,
                "horizontal_flip": False,
                "mean": (0.3,),
                "std": (0.38,),
            },
            "model": {"names": ("preresnet8",), "width_multiplier": 0.5},
            "train": {
                "seeds": (0, 1, 2),
                "num_epochs": 40,
                "batch_size": 64,
                "eval_batch_size": 256,
                "precision": "float32",
                "keep_checkpoints": "all",
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
                "step_boundaries_epochs": (20, 30),
                "step_factor": 0.1,
            },
            "pruning": {
                "criteria": ("magnitude",),
                "scopes": ("uniform",),
                "sparsities": (0.95, 0.9, 0.8, 0.5, 0.2),
                "layers": "conv_kernels",
            },
            "fork": {
                "when": "epochs",
                "epochs": (2, 5, 10, 15, 20, 25, 30, 40),
                "trigger": "peak(random_distance)",
                "prune_at": "now",
                "fallback_epoch": 12,
                "rules": ("constant",),
                "num_replicates": 3,
                "constant_learning_rate": 0.01,
                "constant_num_epochs": 10,
                "comparisons": ("model_similarity", "disagreement"),
                "baselines": (),
                "search": "all",
                "max_cells": 0,
            },
            "signals": {
                "names": (
                    "random_distance",
                    "kl_uniform",
                ),
                "num_examples": 0,
                "batch_size": 100,
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
