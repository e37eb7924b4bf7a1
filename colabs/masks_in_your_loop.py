# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Masks in your own training loop
#
# `earlyprune_jax.pruning` takes a pytree of parameters and gives a pytree of booleans. It needs
# nothing else of this package. This notebook prunes a Linen and an NNX network while they train,
# saves what is left, and makes a network that is really smaller.
#
# - **You need** your loop and your optimizer. The example learns scikit-learn's 1,797 handwritten
#   digits.
# - **It takes** 1 to 2 minutes on 2 CPU cores (1.0 minute of processor time on an AMD EPYC).
# - **Numbers** are means of 3 seeds on 450 test images: one image is 0.22 points.

# %% [markdown]
# ## Install

# %%
# Installs the package where it is missing. What is there already, JAX too, stays as it is.
import importlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

# Without a clone: what `pip install` takes, such as git+https://HOST/OWNER/earlyprune_jax
REPOSITORY = ""

found = find_spec("earlyprune_jax")
if found is None or found.origin is None:  # A clone's own folder has the name, but no origin.
    folders = [Path("earlyprune_jax").resolve(), Path("..").resolve()]
    clones = [str(path) for path in folders if (path / "earlyprune_jax/__init__.py").is_file()]
    assert REPOSITORY or clones, "Upload a clone of the repository here, or set REPOSITORY."
    # Without -e: a kernel that runs already does not see an editable install.
    command = [sys.executable, "-m", "pip", "install", "--quiet", REPOSITORY or clones[0]]
    subprocess.run(command, check=True)
    sys.modules.pop("earlyprune_jax", None)
    importlib.invalidate_caches()

# %% [markdown]
# ## Choose

# %% tags=["parameters"]
num_epochs = 30
seeds = [0, 1, 2]
sparsity = 0.9

# %% [markdown]
# ## A network and a loop, as you have them
#
# Nothing in this part knows of pruning.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pandas as pd
from flax import linen as nn
from sklearn import datasets, model_selection

digits = datasets.load_digits()
splits = model_selection.train_test_split(
    (digits.images[..., None] / 16 - 0.3).astype(np.float32) / 0.38,
    digits.target.astype(np.int32),
    test_size=450,
    stratify=digits.target,
    random_state=0,
)
train_images, test_images, train_labels, test_labels = splits
batch_size = 64
steps_per_epoch = len(train_images) // batch_size


# %%
class Network(nn.Module):
    """A small residual network."""

    @nn.compact
    def __call__(self, x, train):
        def conv(x, name):
            x = nn.Conv(32, (3, 3), use_bias=False, name=name)(x)
            norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"{name}_norm")
            return norm(x)

        x = nn.relu(conv(x, "stem"))
        x = nn.relu(x + conv(nn.relu(conv(x, "conv1")), "conv2"))
        return nn.Dense(10, name="classifier")(x.mean((1, 2)))


network = Network()


@jax.jit
def logits_of(variables, images):
    return network.apply(variables, images, train=False)


def accuracy(variables):
    """Gives the percentage of test images that are classified correctly."""
    return 100 * float((logits_of(variables, test_images).argmax(-1) == test_labels).mean())


# %%
def batches(seed):
    """Yields the training images in batches, in another order every epoch."""
    order = np.random.default_rng(seed)
    for _ in range(num_epochs):
        shuffled = order.permutation(len(train_images))
        for start in range(0, len(shuffled) - batch_size + 1, batch_size):
            rows = shuffled[start : start + batch_size]
            yield train_images[rows], train_labels[rows]


def make_step(optimizer):
    """Makes one step of training, as in any Flax example."""

    @jax.jit
    def step(variables, opt_state, images, labels):
        def loss(params):
            given = {**variables, "params": params}
            logits, new = network.apply(given, images, train=True, mutable=["batch_stats"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), new

        grads, new = jax.grad(loss, has_aux=True)(variables["params"])
        updates, opt_state = optimizer.update(grads, opt_state, variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, **new}, opt_state

    return step


def train(optimizer, seed, variables=None, watch=lambda variables, opt_state: None):
    """Trains for `num_epochs`, from the given weights or from new ones."""
    if variables is None:
        variables = network.init(jax.random.key(seed), train_images[:1], train=False)
    opt_state, step = optimizer.init(variables["params"]), make_step(optimizer)
    for number, (images, labels) in enumerate(batches(seed), start=1):
        variables, opt_state = step(variables, opt_state, images, labels)
        if number % steps_per_epoch == 0:
            watch(variables, opt_state)
    return variables, opt_state


rates = optax.cosine_decay_schedule(3e-3, num_epochs * steps_per_epoch)
dense = {seed: train(optax.adamw(rates), seed)[0] for seed in seeds}

# %% [markdown]
# ## Prune while training: one line
#
# `pruning.transform` wraps the optimizer. Here it removes weights in steps, from epoch 5 on until
# two thirds of training are over. The loop stays as it is, and so does your checkpointing: masks
# are arrays in the optimizer's state.

# %%
from earlyprune_jax import pruning

begin, end = num_epochs // 6, 2 * num_epochs // 3
schedule = pruning.polynomial(
    sparsity, begin=begin, end=end, every=1, steps_per_epoch=steps_per_epoch
)
optimizer = pruning.transform(optax.adamw(rates), schedule)

log = []


def watch(variables, opt_state):
    mask = pruning.get_mask(opt_state)
    kernels = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim == 4]
    log.append(
        {
            "removed by the mask": pruning.count_removed(mask),
            "zeros in the kernels": int(sum((kernel == 0).sum() for kernel in kernels)),
            "test accuracy": accuracy(variables),
        }
    )


pruned = {}
for seed in seeds:
    log.clear()
    pruned[seed] = train(optimizer, seed, watch=watch)

# %% [markdown]
# The last seed, epoch by epoch. Accuracy falls while many weights go at a time, and comes back when
# fewer do. Removed weights are exactly 0 and stay so: the assertion compares both counts in every
# epoch.

# %%
epochs = pd.DataFrame(log, index=pd.RangeIndex(1, num_epochs + 1, name="epoch"))
assert (epochs["removed by the mask"] == epochs["zeros in the kernels"]).all()

figure, axes = plt.subplots(figsize=(7, 3))
epochs["test accuracy"].plot(ax=axes, ylabel="test accuracy (%)", color="C0")
twin = axes.twinx()
epochs["zeros in the kernels"].plot(ax=twin, ylabel="weights that are 0", color="C1")
axes.yaxis.label.set_color("C0")
twin.yaxis.label.set_color("C1")
axes.set_title(f"seed {seeds[-1]}: pruned while it trains")
plt.show()
# %% [markdown]
# The moments of removed weights are 0 as well. Otherwise momentum would bring the weights back.

# %%
variables, opt_state = pruned[seeds[-1]]
params, mask = variables["params"], pruning.get_mask(opt_state)
for moments in optax.tree_utils.tree_get_all_with_path(opt_state, "mu"):
    revived = jax.tree.map(lambda moment, keep: jnp.sum((moment != 0) & ~keep), moments[1], mask)
    print("moments of removed weights that are not 0:", sum(map(int, jax.tree.leaves(revived))))

# %% [markdown]
# What it costs, over all seeds:

# %%
table = pd.DataFrame(
    {
        "dense": [accuracy(dense[seed]) for seed in seeds],
        f"{sparsity:.0%} removed": [accuracy(pruned[seed][0]) for seed in seeds],
    },
    index=pd.Index(seeds, name="seed"),
)
table.agg(["mean", "std", "count"]).T.round(2).astype({"count": int})

# %% [markdown]
# ## The ledger: what is left, and where
#
# One ranking over all layers takes more from large layers than from small ones. MACs are
# multiply-accumulates of one image. What is left of them counts as if a kernel could skip zeros: on
# a CPU, GPU or TPU none does.

# %%
macs = pruning.macs(
    lambda params, x: logits_of({**variables, "params": params}, x), params, test_images
)
pruning.ledger(params, mask, requested=sparsity, macs=macs)

# %% [markdown]
# ## Save it
#
# `save_sparse` writes the kept values and one bit a weight. `save_dense` writes the zeros too, for
# any other reader.

# %%
import tempfile

from safetensors.numpy import load_file

folder = Path(tempfile.mkdtemp())
saved = pruning.save_sparse(folder / "sparse.safetensors", params, mask)
print(f"{saved.bytes_on_disk:,} bytes instead of {saved.dense_bytes:,}")

loaded, loaded_mask = pruning.load_sparse(folder / "sparse.safetensors", like=params)
again = logits_of({**variables, "params": loaded}, test_images)
print("the same outputs:", bool((again == logits_of(variables, test_images)).all()))

pruning.save_dense(folder / "dense.safetensors", params, mask)
print("any reader:", load_file(folder / "dense.safetensors")["conv1/kernel"].shape)

# %% [markdown]
# ## A network that is really smaller
#
# Single zeros make a file smaller, not a network faster. Whole channels do. `channel_groups`
# follows every channel through norms and residual additions, `channel_mask` removes whole channels,
# and the network trains on with that mask. `compact` then takes the channels out.

# %%
groups = pruning.channel_groups(logits_of, dense[seeds[0]], test_images)


def thinned(seed):
    """Removes half of the channels of a trained network and trains on."""
    scores = pruning.scores.magnitude(dense[seed])
    channels = pruning.channel_mask(scores, groups, sparsity=0.5, scope="local")
    start = pruning.apply(channels, dense[seed])
    wrapped = pruning.transform(optax.adamw(rates), mask=channels["params"])
    return train(wrapped, seed, start)[0], channels


thin = {seed: thinned(seed) for seed in seeds}
thin_variables, channels = thin[seeds[0]]
small_apply, small_variables = pruning.compact(logits_of, thin_variables, test_images, channels)
small_logits_of = jax.jit(small_apply)

difference = small_logits_of(small_variables, test_images) - logits_of(thin_variables, test_images)
print("largest difference of an output:", float(jnp.abs(difference).max()))

# %%
import time


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def milliseconds(apply, variables):
    """Times the whole test set: the median of 20 calls."""
    apply(variables, test_images).block_until_ready()
    taken = []
    for _ in range(20):
        started = time.perf_counter()
        apply(variables, test_images).block_until_ready()
        taken.append(1000 * (time.perf_counter() - started))
    return float(np.median(taken))


def mean_accuracy(networks):
    return round(float(np.mean([accuracy(network) for network in networks])), 2)


rows = {
    "dense": (logits_of, dense[seeds[0]], dense.values()),
    "single zeros": (logits_of, pruned[seeds[0]][0], [found for found, _ in pruned.values()]),
    "half the channels": (small_logits_of, small_variables, [found for found, _ in thin.values()]),
}
pd.DataFrame(
    [
        {
            "numbers in memory": count(some),
            "MACs an image": sum(pruning.macs(apply, some, test_images).values()),
            "ms for 450 images": round(milliseconds(apply, some), 1),
            f"test accuracy (%), n = {len(seeds)}": mean_accuracy(networks),
        }
        for apply, some, networks in rows.values()
    ],
    index=list(rows),
)

# %% [markdown]
# The network with half its channels was trained twice as long as the others, so its accuracy is no
# fair comparison. The time is. Single zeros take as long as the dense network does.

# %% [markdown]
# ## The same in NNX
#
# `nnx.Optimizer` takes the wrapped optimizer. Ask for the mask in the model's own structure. This
# network has one convolution less than the one above, so its accuracy is another one.

# %%
from flax import nnx


class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(1, 32, (3, 3), use_bias=False, rngs=rngs)
        self.stem_norm = nnx.BatchNorm(32, momentum=0.9, rngs=rngs)
        self.conv = nnx.Conv(32, 32, (3, 3), use_bias=False, rngs=rngs)
        self.conv_norm = nnx.BatchNorm(32, momentum=0.9, rngs=rngs)
        self.classifier = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem_norm(self.stem(x)))
        x = nnx.relu(x + self.conv_norm(self.conv(x)))
        return self.classifier(x.mean((1, 2)))


@nnx.jit
def nnx_step(model, optimizer, images, labels):
    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    optimizer.update(model, nnx.grad(loss)(model))


model = Classifier(nnx.Rngs(0))
wrapped = pruning.transform(optax.adamw(rates), schedule)  # the same schedule
nnx_optimizer = nnx.Optimizer(model, wrapped, wrt=nnx.Param)
for images, labels in batches(seed=0):
    nnx_step(model, nnx_optimizer, images, labels)

model.eval()
weights = nnx.state(model, nnx.Param)
nnx_mask = pruning.get_mask(nnx_optimizer.opt_state, like=weights)
right = (model(test_images).argmax(-1) == test_labels).mean()
print(f"test accuracy {100 * float(right):.2f} % (n = 1)")
pruning.ledger(weights, nnx_mask, requested=sparsity)

# %% [markdown]
# **Where next**
#
# - [docs/pruning.md](../docs/pruning.md): twelve scores, five ways to share a sparsity out, N:M and
#   blocks, triggers inside `jit`, Equinox, and a table for those who come from jaxpruner.
# - [when_to_prune.ipynb](when_to_prune.ipynb): this notebook chose an epoch to begin. Which one is
#   best?
# - [quick_start.ipynb](quick_start.ipynb): a whole experiment in one call.
