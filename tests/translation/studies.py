"""A study of number words that takes seconds, for all tests of this folder."""

from configs import digits
from earlyprune_jax import config

NETWORK = "transformer(num_layers=1, width=16, num_heads=2, feed_forward_width=32)"


def resolved(**changes):
    """A study of number words that takes seconds."""
    made = digits.get_config()
    made.update_from_flattened_dict(
        {
            "data.name": "numerals(num_pairs=300, num_held_out=20, vocabulary_size=90)",
            "data.num_classes": 0,
            "data.train_fraction": 1.0,
            "data.validation_fraction": 0.0,
            "data.crop_padding": 0,
            "data.mean": (),
            "data.std": (),
            "task.name": "translation(beam=2, extra_length=5, score_every=2)",
            "model.name": NETWORK,
            "model.width_multiplier": 1.0,
            "train.num_epochs": 2,
            "train.seeds": (0,),
            "train.batch_size": 400,
            "train.eval_batch_size": 10,
            "optim.name": "",
            "optim.learning_rate": 0.003,
            "optim.momentum": 0.0,
            "optim.weight_decay": 0.0,
            "schedule.name": "constant",
            "pruning.layers": "",
            "pruning.scopes": ("uniform",),
            "pruning.sparsities": (0.5,),
            "fork.epochs": (1,),
            "fork.trigger": "",
            "fork.retraining": ("continue",),
            "fork.num_replicates": 2,
            "fork.comparisons": ("model_similarity", "disagreement"),
            "signals.names": ("fisher_trace", "kl_uniform", "random_distance"),
            "signals.num_examples": 20,
            "signals.batch_size": 10,
            "signals.fisher_layers": "",
            "signals.weight_layers": "",
        }
    )
    return config.resolve(made, list(changes.items()))
