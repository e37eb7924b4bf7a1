"""`two_regime.py`: paper B, figure 2: another name of paper_b.py:fig2.

On a CPU, PreResNets of half width on few images; times are of 2 workers on 2 cores, results in
results/README.md:
`two_regime.py:small`: PreResNet-8 on 2,450 images: 1,356 epochs of 38 steps, some 25 minutes.
`two_regime.py:depth_small`: PreResNet-8, -14 and -20 on 2,450 images, without model similarity:
720 epochs of 38 steps, 35 minutes with tests beside.
`two_regime.py:data_small`: PreResNet-8 on 2, 5 and 10 %, without model similarity: 720 epochs of 15
to 76 steps, 18 minutes.
"""

from typing import Any

from ml_collections import ConfigDict

from . import _forms, paper_b

FEW_IMAGES = {
    "figure.name": "",
    "data.train_fraction": 0.05,
    "data.validation_fraction": 0.02,
    "data.test_fraction": 0.1,
    "model.name": "preresnet8",
    "model.width_multiplier": 0.5,
    "train.seeds": (0, 1, 2),
    "fork.constant_learning_rate": 0.01,
    "signals.names": ("random_distance", "kl_uniform"),
    "signals.num_examples": 500,
    "signals.max_overhead_fraction": 0.0,
}

FEW_EPOCHS = {
    "train.num_epochs": 20,
    "schedule.step_boundaries_epochs": (10, 15),
    "pruning.sparsities": (0.95, 0.8, 0.4),
    "fork.epochs": (4, 8, 12, 16, 20),
    "fork.fallback_epoch": 10,
    "fork.num_replicates": 1,
    "fork.constant_num_epochs": 4,
    "fork.comparisons": (),
}

FORMS: dict[str, dict[str, Any]] = {
    "": {},
    "small": {
        **FEW_IMAGES,
        "train.num_epochs": 32,
        "schedule.step_boundaries_epochs": (16, 24),
        "pruning.sparsities": (0.95, 0.9, 0.8, 0.6, 0.2),
        "fork.epochs": (4, 8, 12, 16, 20, 24, 32),
        "fork.fallback_epoch": 16,
        "fork.num_replicates": 2,
        "fork.constant_num_epochs": 6,
    },
    "depth_small": {
        **FEW_IMAGES,
        **FEW_EPOCHS,
        "sweep": {"model": {"name": ("preresnet8", "preresnet14", "preresnet20")}},
    },
    "data_small": {
        **FEW_IMAGES,
        **FEW_EPOCHS,
        "sweep": {"data": {"train_fraction": (0.02, 0.05, 0.1)}},
    },
}


def get_config(form: str = "", scale: str = "full") -> ConfigDict:
    """Gives paper_b.py:fig2; a form changes some keys."""
    return _forms.in_form(paper_b.get_config("fig2", scale), form, FORMS)
