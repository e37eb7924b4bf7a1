"""A study of number words that takes seconds, for all tests of this folder."""

from configs import translation
from earlyprune_jax import config

NETWORK = "transformer(num_layers=1, width=16, num_heads=2, feed_forward_width=32)"


def resolved(**changes):
    """A study of number words that takes seconds."""
    made = translation.get_config()
    made.update_from_flattened_dict(
        {
            "data.name": "numerals(num_pairs=300, num_held_out=20, vocabulary_size=90)",
            "task.name": "translation(beam=2, extra_length=5, score_every=2)",
            "model.name": NETWORK,
            "train.num_epochs": 2,
            "train.batch_size": 400,
            "train.eval_batch_size": 10,
            "optim.name": "",
            "optim.learning_rate": 0.003,
            "schedule.name": "constant",
            "pruning.sparsities": (0.5,),
            "fork.epochs": (1,),
            "fork.trigger": "",
            "fork.retraining": ("continue",),
            "fork.length": 0,
            "signals.names": ("fisher_trace", "kl_uniform", "random_distance"),
            "signals.num_examples": 20,
            "signals.batch_size": 10,
        }
    )
    return config.resolve(made, list(changes.items()))
