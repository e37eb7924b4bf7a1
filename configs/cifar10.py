"""`cifar10.py`: paper A, figure 1a, ResNet-18 on CIFAR-10: another name of paper_a.py:fig1a.

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

from . import _forms, paper_a

FEW_IMAGES = {
    "figure.name": "",
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

FORMS: dict[str, dict[str, Any]] = {
    "": {},
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


def get_config(form: str = "", scale: str = "full") -> ConfigDict:
    """Gives paper_a.py:fig1a; a form changes some keys."""
    return _forms.in_form(paper_a.get_config("fig1a", scale), form, FORMS)
