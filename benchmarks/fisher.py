"""What tr(F) costs by each method, in plain gradients of the same batch, and how much memory it
takes.

    python benchmarks/fisher.py [--num_rounds 11] [--batch_size 128]
    python benchmarks/fisher.py --model resnet18 --num_images 10000 --method layerwise

The first: ResNet-20, synthetic CIFAR-10-sized images, sampled labels; the compiled gradient of the
mean cross-entropy in evaluation mode beside whole calls of `fisher_trace` on one microbatch of the
same images, taken in turns; "lean" is the plain gradient compiled with the options `fisher_trace`
uses on CPU to save memory. Prints medians, the medians of the ratios of neighbouring calls, and the
peak resident memory of each in a process of its own. The second: one whole measurement with its
default microbatch, in this process.
"""

import argparse
import functools
import platform
import resource
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax import models
from earlyprune_jax.signals import fisher

CONTESTANTS = ("plain gradient", "plain, lean", *sorted(fisher.METHODS))


def network(name):
    """(module, variables) with 10 classes; drawn on the host, so that little memory is used."""
    module, rng = models.build(name, num_classes=10), np.random.default_rng(0)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)

    def drawn(path, leaf):
        if leaf.ndim == 1:
            # Small scales: predictions that are certain would have gradients that underflow.
            return np.full(
                leaf.shape, {"scale": 0.3, "var": 1.0}.get(path[-1].key, 0.0), np.float32
            )
        deviation = np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return (deviation * rng.standard_normal(leaf.shape)).astype(np.float32)

    return module, jax.device_put(jax.tree.map_with_path(drawn, shapes))


def images_of(count):
    return np.random.default_rng(0).standard_normal((count, 32, 32, 3), np.float32)


def plain_gradient(module, variables, images, options):
    labels = jnp.arange(len(images)) % 10
    images = jnp.asarray(images)

    @functools.partial(jax.jit, compiler_options=options)
    def gradient(params, fixed, images):
        def loss(params):
            log_probs = jax.nn.log_softmax(
                module.apply({**fixed, "params": params}, images, train=False)
            )
            return -jnp.mean(jnp.take_along_axis(log_probs, labels[:, None], axis=1))

        return jax.grad(loss)(params)

    fixed = {name: values for name, values in variables.items() if name != "params"}
    return lambda: jax.block_until_ready(gradient(variables["params"], fixed, images))


def trace_by(method, module, variables, images):
    def measure():
        return fisher.fisher_trace(
            module,
            variables,
            images,
            key=jax.random.key(1),
            method=method,
            microbatch_size=len(images),
        )

    return measure


def contestant(name, model, batch_size):
    module, variables = network(model)
    images = images_of(batch_size)
    if name.startswith("plain"):
        options = fisher.memory_options(jax.default_backend()) if "lean" in name else {}
        return plain_gradient(module, variables, images, options)
    return trace_by(name, module, variables, images)


def peak_mebibytes():
    # Linux counts kibibytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def own_process_mebibytes(name, arguments):
    """The growth of the peak resident memory over that of the network and the images."""
    command = [sys.executable, __file__, "--memory_of", name, "--model", arguments.model]
    command += ["--batch_size", str(arguments.batch_size)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_memory_growth(name, arguments):
    run = contestant(name, arguments.model, arguments.batch_size)
    before = peak_mebibytes()
    run()
    print(peak_mebibytes() - before)


def print_table(arguments):
    # First of all: a child's peak starts from what its parent holds when it is started.
    memory = {name: own_process_mebibytes(name, arguments) for name in CONTESTANTS}
    runs = {name: contestant(name, arguments.model, arguments.batch_size) for name in CONTESTANTS}
    seconds = {name: [] for name in CONTESTANTS}
    for number in range(arguments.num_rounds + 2):
        # In turns first and last: what runs later meets other caches.
        for name in CONTESTANTS[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            runs[name]()
            if number >= 2:  # the first rounds compile and warm up
                seconds[name].append(time.perf_counter() - began)
    plain = seconds["plain gradient"]
    print(f"{arguments.model}, {arguments.batch_size} images, {arguments.num_rounds} rounds")
    print(f"{'':16s}{'seconds':>9s}{'ratio':>8s}  (quartiles)      peak memory")
    for name in CONTESTANTS:
        ratios = [own / base for own, base in zip(seconds[name], plain, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{name:16s}{statistics.median(seconds[name]):9.3f}{middle:8.2f}  "
            f"({low:.2f} to {high:.2f})"
            f"{memory[name]:12.0f} MiB"
        )


def print_whole_run(arguments):
    module, variables = network(arguments.model)
    images = images_of(arguments.num_images)
    began = time.perf_counter()
    found = fisher.fisher_trace(
        module,
        variables,
        images,
        key=jax.random.key(1),
        method=arguments.method,
        microbatch_size=arguments.microbatch_size,
    )
    seconds = time.perf_counter() - began
    print(
        f"{arguments.model}, {arguments.num_images} images, {arguments.method}: tr(F) = "
        f"{found.total:.6g} "
        f"(standard error {found.standard_error or float('nan'):.2g}), {seconds:.1f} s, "
        f"peak resident memory {peak_mebibytes() / 1024:.2f} GiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet20", choices=models.names())
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--num_rounds", type=int, default=11)
    parser.add_argument(
        "--num_images", type=int, default=0, help="run one whole measurement of so many"
    )
    parser.add_argument("--method", default="layerwise", choices=fisher.METHODS)
    parser.add_argument("--microbatch_size", type=int, default=None)
    parser.add_argument("--memory_of", choices=CONTESTANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print_memory_growth(arguments.memory_of, arguments)
        return
    print(
        f"{platform.processor() or platform.machine()}, {jax.devices()[0].device_kind}, "
        f"jax {jax.__version__}"
    )
    if arguments.num_images:
        print_whole_run(arguments)
    else:
        print_table(arguments)


if __name__ == "__main__":
    main()
