"""A task that is no classification: two lengths of sequences, dropout, no labels, a minimised
error."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from earlyprune_jax import tasks
from earlyprune_jax.models import forward
from earlyprune_jax.signals import WeightSignal

LENGTHS = {"short": 6, "long": 10}


class Denoiser(nn.Module):
    """Maps sequences [B, L] to sequences, of any length."""

    width: int = 8

    @nn.compact
    def __call__(self, x, train=False):
        hidden = nn.relu(nn.Conv(self.width, (3,), name="conv1")(x[..., None]))
        hidden = nn.Dropout(0.05, deterministic=not train)(hidden)
        return nn.Conv(1, (3,), name="conv2")(hidden)[..., 0]


def waves(num_train=(40, 20), num_test=(12, 8)):
    """Noisy sines in arrays of one length, and beside them how much of each counts."""

    def arrays(counts, seed):
        rng = np.random.default_rng(seed)
        lengths = np.repeat([LENGTHS["short"], LENGTHS["long"]], counts)
        clean = np.sin(np.arange(LENGTHS["long"]) + rng.uniform(0, 6, (len(lengths), 1)))
        values = clean + rng.normal(0, 0.3, clean.shape)
        return {
            "noisy": values.astype(np.float32),
            "clean": clean.astype(np.float32),
            "length": lengths,
        }

    return {"train": arrays(num_train, 0), "test": arrays(num_test, 1)}


def steals(name):
    """A signal whose column belongs to somebody else."""
    return WeightSignal("steals", (name,), lambda params, key: {name: 1.0})


def _buckets(split):
    found = {}
    for name, length in LENGTHS.items():
        own = np.asarray(split["length"]) == length
        found[name] = {key: np.asarray(split[key])[own, :length] for key in ("noisy", "clean")}
    return found


def denoising(splits, model, *, batch_size, every_epochs=2, primary="rmse"):
    """Takes the noise off: mean squared error over the entries of a sequence, and on the host its
    root."""
    net = model()
    buckets = {name: _buckets(split) for name, split in splits.items()}

    def sums(outputs, batch):
        weights = batch.get("weights", jnp.ones(len(outputs)))[:, None] * jnp.ones_like(outputs)
        return {
            "loss": jnp.sum(weights * (outputs - batch["clean"]) ** 2),
            "count": jnp.sum(weights),
        }

    def train_sums(params, state, batch, key):
        outputs, new_state = forward.train(net, params, state, batch["noisy"], key)
        return sums(outputs, batch), new_state

    def eval_sums(params, state, batch):
        return sums(forward.evaluate(net, {"params": params, **state}, batch["noisy"]), batch)

    def root(variables, split):
        found = [
            np.asarray(forward.evaluate(net, variables, bucket["noisy"])) - bucket["clean"]
            for bucket in buckets[split].values()
        ]
        return {
            "rmse": float(np.sqrt(np.mean(np.concatenate([one.ravel() for one in found]) ** 2)))
        }

    return tasks.Task(
        splits=buckets,
        batching=tasks.bucketed(buckets, {"short": batch_size, "long": batch_size // 2}),
        init=lambda key: forward.init(net, key, jnp.zeros((1, LENGTHS["short"]))),
        train_sums=train_sums,
        eval_sums=eval_sums,
        metrics=(tasks.Metric("loss", "squared", larger_is_better=False),),
        primary=primary,
        host=(
            tasks.HostMeasurement(
                (tasks.Metric("rmse", "V", larger_is_better=False),), root, every_epochs
            ),
        ),
        layers="all_kernels",
        optimizer="adam",
    )
