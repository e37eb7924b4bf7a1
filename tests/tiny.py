"""The smallest whole experiment; without tr(F), which takes longer to compile than all the rest to
run. A ResNet-8 instead takes five times as long to compile."""

from pathlib import Path

from ml_collections import ConfigDict

from configs import digits


def tiny_experiment(npz: Path) -> ConfigDict:
    """A 2-channel `own_code.ConvNet`, 4 epochs of 5 steps, one fork at epoch 2."""
    config = digits.get_config()
    config.update_from_flattened_dict(
        {
            "data.name": f"npz:{npz}",
            "data.num_classes": 2,
            "data.train_fraction": 1.0,
            "data.validation_fraction": 0.0,
            "data.crop_padding": 1,
            "data.horizontal_flip": True,
            "model.name": "own_code:ConvNet",
            "model.width_multiplier": 0.125,
            "train.seeds": (0,),
            "train.num_epochs": 4,
            "train.batch_size": 8,
            "train.eval_batch_size": 16,
            "optim.learning_rate": 0.05,
            "fork.epochs": (2,),
            "fork.fallback_epoch": 0,
            "pruning.sparsities": (0.5,),
            "signals.mask_sparsity": 0.5,
            "schedule.exponential_decay_rate": 0.5,
            "schedule.step_boundaries_epochs": (2,),
            "signals.names": ("kl_uniform", "mask_distance", "weight_change"),
            "signals.num_examples": 12,
            "signals.batch_size": 8,
        }
    )
    return config


def linear_experiment(npz: Path) -> ConfigDict:
    """The same with softmax regression, `own_code.Linear`, in place of the network; no signals."""
    config = tiny_experiment(npz)
    config.update_from_flattened_dict(
        {
            "model.name": "own_code:Linear",
            "model.width_multiplier": 1.0,
            "pruning.layers": "dense_kernels",
            "signals.names": (),
            "signals.fisher_layers": "dense_kernels",
            "signals.weight_layers": "dense_kernels",
        }
    )
    return config
