"""What masks and a compact network save: seconds of a training step and of inference.

    python benchmarks/compact.py [--model resnet20] [--batch_size 128] [--num_rounds 20]

CIFAR-sized images, SGD with momentum and weight decay. A masked network is the dense one times a
mask, 90 % of its convolution weights removed one by one; a compact one has lost whole channels
(`pruning.channel_mask`, scope local, by magnitude) and is smaller. All take their steps in turns in
one process. The compact network's statistics stay as they are while it trains, so it is compared
with a dense one whose statistics stay too. Prints medians, and the median of the ratios to the
dense step of the same round with their quartiles.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import optax

from earlyprune_jax import models, pruning
from earlyprune_jax.pruning import scores

SPARSITIES = (0.5, 0.7, 0.9)
OPTIMIZER = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, momentum=0.9))
WARM_UP_ROUNDS = 2


def trained(apply: Callable, variables, images, labels, mask=None) -> Callable[[], None]:
    """A function that takes one training step; `apply` may give new statistics beside logits."""
    rest = {name: tree for name, tree in variables.items() if name != "params"}

    @jax.jit
    def step(params, opt_state, rest, images, labels):
        def loss(params):
            params = params if mask is None else pruning.apply(mask, params)
            outputs = apply({**rest, "params": params}, images)
            logits, new_rest = outputs if isinstance(outputs, tuple) else (outputs, rest)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), new_rest

        grads, new_rest = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, new_rest

    state = [variables["params"], OPTIMIZER.init(variables["params"]), rest]

    def advance() -> None:
        state[:] = jax.block_until_ready(step(*state, images, labels))

    return advance


def inferred(apply: Callable, variables, images) -> Callable[[], None]:
    run = jax.jit(apply)
    return lambda: jax.block_until_ready(run(variables, images))


def contestants(model: str, images, labels) -> Iterator[tuple[str, str, Callable[[], None], str]]:
    """Yields name, name of what it is compared with, the work, and the size of every network."""
    network = models.build(model, num_classes=10)
    init = jax.jit(lambda key: network.init(key, images[:1], train=False))
    variables = init(jax.random.key(0))

    def fixed(variables, images):
        return network.apply(variables, images, train=False)

    def moving(variables, images):
        return network.apply(variables, images, train=True, mutable=["batch_stats"])

    def size(apply, variables) -> str:
        count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        return f"{count:,} | {sum(pruning.macs(apply, variables, images).values()) / 1e6:.1f}"

    mask = pruning.prune(variables["params"], sparsity=0.9, scope="local", layers="conv_kernels")
    masked = {**variables, "params": pruning.apply(mask, variables["params"])}
    dense, train = size(fixed, variables), "training step"
    yield f"dense, {train}", "", trained(moving, variables, images, labels), dense
    work = trained(moving, masked, images, labels, mask)
    yield f"masked 0.9, {train}", f"dense, {train}", work, dense
    train = "training step, statistics fixed"
    yield f"dense, {train}", "", trained(fixed, variables, images, labels), dense
    yield "dense, inference", "", inferred(fixed, variables, images), dense
    yield "masked 0.9, inference", "dense, inference", inferred(fixed, masked, images), dense
    groups = pruning.channel_groups(fixed, variables, images)
    for sparsity in SPARSITIES:
        ranked = scores.magnitude(variables)
        channels = pruning.channel_mask(ranked, groups, sparsity=sparsity, scope="local")
        apply, smaller = pruning.compact(fixed, variables, images, channels)
        small, name = size(apply, smaller), f"compact {sparsity:g}"
        work = trained(apply, smaller, images, labels)
        yield f"{name}, {train}", f"dense, {train}", work, small
        yield f"{name}, inference", "dense, inference", inferred(apply, smaller, images), small


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--num_rounds", type=int, default=20)
    arguments = parser.parse_args()
    images = jax.random.normal(jax.random.key(1), (arguments.batch_size, 32, 32, 3))
    every = list(contestants(arguments.model, images, jnp.arange(arguments.batch_size) % 10))
    seconds: dict[str, list[float]] = {name: [] for name, *_ in every}
    for number in range(arguments.num_rounds + WARM_UP_ROUNDS):
        # Forwards and backwards in turns: what runs later meets warm caches.
        for name, _, work, _ in every[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            work()
            if number >= WARM_UP_ROUNDS:
                seconds[name].append(time.perf_counter() - began)
    print(
        f"{arguments.model}, batches of {arguments.batch_size}, n = {arguments.num_rounds}; "
        f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}, load {os.getloadavg()[0]:.1f}"
    )
    print("| | parameters | million MACs an image | ms | of dense (quartiles) |")
    print("| --- | --- | --- | --- | --- |")
    for name, reference, _, size in every:
        ratios = [a / b for a, b in zip(seconds[name], seconds[reference or name], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        ratio = f"{middle:.2f} ({low:.2f} to {high:.2f})" if reference else "1"
        print(f"| {name} | {size} | {1e3 * statistics.median(seconds[name]):.0f} | {ratio} |")


if __name__ == "__main__":
    main()
