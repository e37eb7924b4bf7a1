"""What `pruning.transform` adds to a training step between prunings.

    python benchmarks/transform.py [--num_steps 30] [--batch_size 128]

ResNet-20, synthetic CIFAR-10-sized batch, SGD with momentum and weight decay: the same jitted step
with the bare optimizer and with the wrapped one, taken in turns. Prints medians and the median of
the ratios of neighbouring steps.
"""

import argparse
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import optax

from earlyprune_jax import models, pruning


def make_step(optimizer):
    network = models.build("resnet20", num_classes=10)

    @jax.jit
    def step(variables, opt_state, images, labels):
        def loss(params):
            logits, updated = network.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

        grads, updated = jax.grad(loss, has_aux=True)(variables["params"])
        updates, opt_state = optimizer.update(grads, opt_state, variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, **updated}, opt_state

    init = jax.jit(lambda key: network.init(key, jnp.zeros((1, 32, 32, 3)), train=False))
    variables = init(jax.random.key(0))
    return step, (variables, optimizer.init(variables["params"]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num_steps", type=int, default=30)
    parser.add_argument("--batch_size", type=int, default=128)
    arguments = parser.parse_args()
    inner = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, momentum=0.9))
    schedule = pruning.polynomial(0.9, begin=10**6, end=2 * 10**6, every=10**5)
    contestants = {"bare": inner, "transform": pruning.transform(inner, schedule)}
    prepared = {name: make_step(optimizer) for name, optimizer in contestants.items()}
    images = jax.random.normal(jax.random.key(1), (arguments.batch_size, 32, 32, 3))
    labels = jnp.arange(arguments.batch_size) % 10
    states = {name: start for name, (_, start) in prepared.items()}
    seconds = {name: [] for name in contestants}
    for number in range(arguments.num_steps + 3):
        # In turns first and second: what runs second meets warm caches.
        order = list(prepared.items())[:: 1 if number % 2 else -1]
        for name, (step, _) in order:
            began = time.perf_counter()
            states[name] = jax.block_until_ready(step(*states[name], images, labels))
            if number >= 3:  # the first steps compile and warm up
                seconds[name].append(time.perf_counter() - began)
    ratios = [
        pruned / bare for bare, pruned in zip(seconds["bare"], seconds["transform"], strict=True)
    ]
    print(
        f"{platform.processor() or platform.machine()}, {jax.devices()[0].device_kind}, "
        f"jax {jax.__version__}"
    )
    for name, values in seconds.items():
        print(
            f"{name:10s} {1e3 * statistics.median(values):8.2f} ms a step (median of {len(values)})"
        )
    spread = statistics.quantiles(ratios, n=4)
    print(
        f"transform / bare: {statistics.median(ratios):.3f} (quartiles {spread[0]:.3f} "
        f"to {spread[2]:.3f})"
    )


if __name__ == "__main__":
    main()
