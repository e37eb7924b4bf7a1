"""Real CIFAR-10 on a CPU, with every signal: which of them marks the right moment to prune?

ResNet-8 on 2,500 images without augmentation: it fits them all by epoch 30, so that signals which turn
when fitting ends have time to turn. 90 % of the convolution weights are removed.
Claim: early is best (epochs 1 to 10 of 40), and no signal's peak marks it: a fixed 10 % does as well.
Command: python -m earlyprune_jax.main --config=configs/cifar10_signals.py --config.data.data_dir=DIR
The run that decides by itself: add --config.fork.when=trigger
Cost: 3 trunks of 40 epochs and 30 forks, 825 epochs of 39 steps: 57 minutes on 2 CPU cores with
other work beside it; by itself: 120 epochs, 8 minutes.
Expected (last-epoch accuracy on 1,000 test images, mean +- std, n = 3; see results/README.md): dense
50.6 +- 0.9 %; forks at 1, 3, 6, 10, 14, 18, 22, 26, 30, 35: 47.9 +- 1.9, 49.0 +- 1.0, 50.2 +- 1.2,
49.9 +- 0.6, 48.4 +- 1.3, 48.3 +- 0.2, 49.0 +- 1.5, 46.6 +- 1.0, 47.2 +- 0.4, 45.8 +- 2.8; tr(F) peaks
at 17.
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
                "validation_fraction": 0.02,
                "test_fraction": 0.1,
                "split_seed": 0,
                "crop_padding": 0,
                "horizontal_flip": False,
                "mean": (0.4914, 0.4822, 0.4465),
                "std": (0.247, 0.243, 0.261),
            },
            "model": {
                "names": ("resnet8",),
                "width_multiplier": 1.0,
            },
            "train": {
                "seeds": (0, 1, 2),
                "num_epochs": 40,
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
                "exponential_decay_rate": 0.92,
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
                "epochs": (1, 3, 6, 10, 14, 18, 22, 26, 30, 35),
                "trigger": "peak(fisher_trace, smoothing=3, patience=3)",
                "prune_at": "now",
                "fallback_epoch": 30,
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
                "names": (
                    "fisher_trace",
                    "kl_uniform",
                    "random_distance",
                    "mask_distance",
                    "weight_change",
                    "gradient_norm",
                    "performance",
                ),
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
