"""What cached decoding saves against recomputing every earlier token.

    python benchmarks/translation.py [--num_layers 6] [--width 512] [--num_sentences 8]

A Transformer with random weights, made never to end early, so that both ways take the same steps:
greedy search by `translation.decoding.search` to outputs of 60 tokens, of sources of 60. One way
decodes a token a step by the cache; the other decodes all tokens so far, of which there are 60
places. The source is encoded once either way. Both take turns in one process. Prints medians, and
the median of the ratios of neighbouring runs with their quartiles; outputs are compared.
"""

import argparse
import functools
import os
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.data.vocabulary import END
from earlyprune_jax.models import forward
from earlyprune_jax.models.transformer import Transformer
from earlyprune_jax.translation import decoding

LENGTH = 60


def never_ending(module: Transformer, source) -> dict:
    """Makes random parameters under which END is never the likeliest token."""
    init = jax.jit(functools.partial(forward.init, module))
    params = init(jax.random.key(0), {"source": source, "target": source})["params"]
    bias = params["output"]["bias"].at[END].set(-1e9)
    return {"params": {**params, "output": {**params["output"], "bias": bias}}}


def recomputed(module: Transformer, variables, source):
    """Searches as `decoding.translate` does, each step from all tokens so far."""
    apply = functools.partial(module.apply, variables)
    encoded = apply(source, method="encode")

    def step(ids, position, earlier):
        earlier = jax.lax.dynamic_update_index_in_dim(earlier, ids, position, axis=1)
        logits = apply(earlier, encoded, method="decode")
        latest = jax.lax.dynamic_index_in_dim(logits, position, axis=1, keepdims=False)
        return jax.nn.log_softmax(latest), earlier

    limits = jnp.full(len(source), LENGTH)
    return decoding.search(step, jnp.zeros_like(source), limits, length=LENGTH)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num_layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--vocabulary_size", type=int, default=8000)
    parser.add_argument("--num_sentences", type=int, default=8)
    parser.add_argument("--num_rounds", type=int, default=5)
    arguments = parser.parse_args()
    sizes = {"num_layers": arguments.num_layers, "width": arguments.width}
    sizes["feed_forward_width"] = 4 * arguments.width
    module = Transformer(arguments.vocabulary_size, arguments.vocabulary_size, **sizes)
    shape = arguments.num_sentences, LENGTH
    source = jax.random.randint(jax.random.key(1), shape, END + 1, arguments.vocabulary_size)
    variables = never_ending(module, source)
    ways = {
        "cached": jax.jit(functools.partial(decoding.translate, module, extra_length=0)),
        "recomputed": jax.jit(functools.partial(recomputed, module)),
    }
    outputs = {name: np.asarray(way(variables, source)[0]) for name, way in ways.items()}
    assert np.all(outputs["cached"][:, :-1] > END)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(arguments.num_rounds):
        # In turns first and second: what runs second meets warm caches.
        for name, way in list(ways.items())[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            jax.block_until_ready(way(variables, source))
            seconds[name].append(time.perf_counter() - began)
    same = np.mean(outputs["cached"] == outputs["recomputed"])
    print(
        f"{arguments.num_layers} + {arguments.num_layers} layers of {arguments.width}, "
        f"{arguments.num_sentences} sentences of {LENGTH} tokens, n = {arguments.num_rounds}; "
        f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}, load {os.getloadavg()[0]:.1f}"
    )
    print("| greedy decoding | s | tokens/s |")
    print("| --- | --- | --- |")
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(f"| {name} | {middle:.2f} | {arguments.num_sentences * LENGTH / middle:.0f} |")
    pairs = zip(seconds["recomputed"], seconds["cached"], strict=True)
    low, middle, high = statistics.quantiles([a / b for a, b in pairs], n=4)
    print(f"recomputed / cached: {middle:.1f} (quartiles {low:.1f} to {high:.1f})")
    print(f"tokens that are the same: {100 * same:.1f} %")


if __name__ == "__main__":
    main()
