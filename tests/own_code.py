"""What a user might write, named in tests by import path: own_code:Linear."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.core import Tracer

from earlyprune_jax.training.retraining import Training
from earlyprune_jax.triggers.rules import AtEpoch


def pass_gate() -> None:
    """Counts its calls in a file, and lets so many pass, where the environment has GATE=COUNT:FILE.

    The others wait until the file is gone: a test that stops a process here need not be faster than
    it.
    """
    count, _, file = os.environ.get("GATE", "").partition(":")
    if file:
        with Path(file).open("ab") as calls:
            calls.write(b".")
        while Path(file).exists() and Path(file).stat().st_size > int(count):
            time.sleep(1)


def wait_for_ever(tell) -> None:
    """Is the work of a worker process."""
    tell("say", "waiting")
    while True:
        time.sleep(1)


class Linear(nn.Module):
    """Softmax regression on all pixels: compiles in no time."""

    num_classes: int

    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.num_classes, name="classifier")(images.reshape(len(images), -1))


class Scaled(nn.Module):
    """The same times a parameter that no layer holds."""

    num_classes: int

    @nn.compact
    def __call__(self, images):
        scale = self.param("scale", nn.initializers.ones, (1, 1))
        return scale * Linear(self.num_classes, name="linear")(images)


class ConvNet(nn.Module):
    """Two convolutions with batch norm and a classifier: all kinds of layers of a ResNet, in a
    fraction of its time to compile. Width 1/8: 18 + 72 weights in the convolutions."""

    num_classes: int
    width_multiplier: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train):
        for name, width in (("stem", 16), ("last", 32)):
            width = round(width * self.width_multiplier)
            x = nn.Conv(width, (3, 3), use_bias=False, dtype=self.dtype, name=f"{name}_conv")(x)
            norm = nn.BatchNorm(use_running_average=not train, dtype=self.dtype, name=f"{name}_bn")
            x = nn.relu(norm(x))
        x = nn.Dense(self.num_classes, dtype=self.dtype, name="classifier")(x.mean((1, 2)))
        return x.astype(jnp.float32)


# Criteria


def gated_magnitude(params, probe):
    if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(params)):
        pass_gate()
    return jax.tree.map(jnp.abs, params)


def signed(params, probe):
    """Large positive weights stay."""
    return params


def gradient(params, probe):
    """The absolute mean gradient over the batches, which are of one size."""
    batches = [jax.grad(probe.loss)(params, batch) for batch in probe.batches]
    return jax.tree.map(lambda *leaves: jnp.abs(sum(leaves)) / len(leaves), *batches)


def kernel_only(params, probe):
    return {"classifier": {"kernel": params["classifier"]["kernel"]}}


def flattened(params, probe):
    return jax.tree.map(jnp.ravel, params)


# Scopes


def first(scores, prunable, sparsity, *, extra=0):
    """Removes the first weights of the kernel, and `extra` more."""
    kernel = np.ones(scores["classifier"]["kernel"].shape, bool)
    kernel.ravel()[: round(sparsity * kernel.size) + extra] = False
    return {
        "classifier": {"bias": np.ones(scores["classifier"]["bias"].shape, bool), "kernel": kernel}
    }


def biases_too(scores, prunable, sparsity):
    mask = first(scores, prunable, sparsity)
    mask["classifier"]["bias"][0] = False
    return mask


def numbers(scores, prunable, sparsity):
    return jax.tree.map(np.asarray, scores)


# Rules and schedules


@dataclasses.dataclass(frozen=True)
class GatedEpoch(AtEpoch):
    def __call__(self, history):
        pass_gate()
        return super().__call__(history)


def gated_constant(max_learning_rate):
    """Asked for the rates of every epoch."""

    def rate(step):
        pass_gate()
        return jnp.full(jnp.shape(step), max_learning_rate)

    return rate


def half_rate(fork_epoch, trunk, *, epochs=3):
    """Half of the trunk's final rate, for so many epochs."""
    return Training(epochs, optax.constant_schedule(trunk.final_rate / 2))


def no_training(fork_epoch, trunk):
    return None


def polynomial(max_learning_rate, num_epochs, steps_per_epoch, power=2.0):
    """Falls to 0, which it would reach one step after the last."""
    return lambda step: max_learning_rate * (1 - step / (num_epochs * steps_per_epoch)) ** power


def negative(max_learning_rate):
    return lambda step: -max_learning_rate
