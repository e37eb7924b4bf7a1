"""The reference study: seconds long, and with a member of every kind.

A config file too: `study.py:FORM`. Its network is `own_code:Linear`, softmax regression; its data
are the array file that `write_data` makes.
"""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from configs import digits

FORMS = {
    # Two trunks, eight forks of them, four comparisons, budgets of signals.
    "grid": {
        "fork.epochs": (1, 3),
        "fork.num_replicates": 2,
        "fork.comparisons": ("disagreement",),
    },
    # Two runs that prune themselves.
    "online": {"fork.when": "trigger", "fork.trigger": "epoch(2)"},
    # One trunk, whose signals' budget is measured and written down.
    "budget": {
        "train.seeds": (0,),
        "fork.epochs": (3,),
        "signals.max_overhead_fraction": 1.0,
    },
    # One trunk and 300 forks of one epoch each.
    "soak": {
        "train.seeds": (0,),
        "train.num_epochs": 2,
        "fork.epochs": (1,),
        "fork.num_replicates": 100,
        "pruning.sparsities": (0.25, 0.5, 0.75),
        "fork.retraining": ("constant",),
        "fork.constant_num_epochs": 1,
    },
}


def get_config(form: str = "grid") -> ConfigDict:
    """Gives the study of a form; `data.name` is left to the command."""
    config = digits.get_config()
    config.update_from_flattened_dict(
        {
            "data.num_classes": 2,
            "data.train_fraction": 1.0,
            "data.crop_padding": 1,
            "model.name": "own_code:Linear",
            "model.width_multiplier": 1.0,
            "train.seeds": (0, 1),
            "train.num_epochs": 4,
            "train.batch_size": 8,
            "train.eval_batch_size": 16,
            "optim.learning_rate": 0.05,
            "schedule.exponential_decay_rate": 0.5,
            "schedule.step_boundaries_epochs": (2,),
            "fork.trigger": "peak(kl_uniform_bits, smoothing=1)",
            "fork.fallback_epoch": 0,
            "pruning.layers": "dense_kernels",
            "pruning.sparsities": (0.5,),
            "signals.names": ("kl_uniform", "weight_change"),
            "signals.num_examples": 12,
            "signals.batch_size": 8,
            "signals.fisher_layers": "dense_kernels",
            "signals.weight_layers": "dense_kernels",
            "signals.mask_sparsity": 0.5,
        }
        | FORMS[form]
    )
    return config


def write_data(path: Path, **changes: np.ndarray) -> Path:
    """Writes 40 + 16 grey 8x8 images of two classes, bright top or bright bottom, with noise.

    Args:
        path: of the new array file.
        changes: arrays in place of its own.

    Returns:
        The path.
    """
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, num in (("train", 40), ("test", 16)):
        labels = np.arange(num) % 2
        pixels = rng.integers(0, 120, (num, 8, 8, 1))
        pixels[labels == 0, :4] += 25
        pixels[labels == 1, 4:] += 25
        arrays |= {f"x_{split}": pixels.astype(np.uint8), f"y_{split}": labels}
    np.savez(path, **(arrays | changes))  # type: ignore[arg-type]
    return path
