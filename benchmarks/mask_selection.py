"""Time and memory of making a mask, against numpy.partition of the same numbers.

    python benchmarks/select.py                           # ResNet-18, 11.2 M weights
    python benchmarks/select.py --num_weights 125000000   # synthetic layers, peak memory
    python benchmarks/select.py --variants                # ties, min_kept, the other scopes, 2:4

Times are medians of interleaved repeats: every round runs each contestant once, so that a slow
moment of the machine meets all. Memory is that of a fresh process which holds the weights and has
made a small mask before: its highest resident set during one call (VmHWM in /proc, reset before the
call; Linux only) less its resident set before. It counts what tracemalloc does not see, such as
JAX's own buffers.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax import models, pruning

SPARSITY = 0.8
LAYER = (3, 3, 512, 512)


def resnet18() -> Any:
    """ResNet-18 for CIFAR-10, initialised."""
    model = models.build("resnet18", num_classes=10)
    init = jax.jit(lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False)["params"])
    return jax.block_until_ready(init(jax.random.key(0)))


def synthetic(num_weights: int) -> Any:
    """Float32 conv kernels of 2.4 M weights each, and a last smaller one: `num_weights`
    together."""
    rng = np.random.default_rng(0)
    size = int(np.prod(LAYER))
    whole, rest = divmod(num_weights, size)
    shapes = [LAYER] * whole + ([(1, 1, 1, rest)] if rest else [])
    layers = {
        f"conv{index}": {"kernel": rng.standard_normal(shape, np.float32)}
        for index, shape in enumerate(shapes)
    }
    return jax.block_until_ready(jax.device_put(layers))


def make_params(num_weights: int | None) -> Any:
    return resnet18() if num_weights is None else synthetic(num_weights)


def magnitudes(params: Any) -> Any:
    return jax.tree.map(lambda leaf: np.abs(np.asarray(leaf)), params)


def contestants(params: Any) -> dict[str, Callable[[], Any]]:
    """What is timed, the reference first."""
    scores, prunable = magnitudes(params), pruning.select(params, "conv_kernels")
    pairs = zip(jax.tree.leaves(scores), jax.tree.leaves(prunable), strict=True)
    flat = np.concatenate([leaf.reshape(-1) for leaf, take in pairs if take])
    place = round(SPARSITY * flat.size) - 1
    return {
        "numpy.partition": lambda: np.partition(flat, place),
        "allocate": lambda: jax.block_until_ready(
            pruning.allocate(scores, prunable, sparsity=SPARSITY)
        ),
        "prune": lambda: jax.block_until_ready(pruning.prune(params, sparsity=SPARSITY)),
    }


def variants(params: Any) -> dict[str, Callable[[], Any]]:
    """`allocate` where it has more to do: on tied scores, with a minimum, in other scopes, by
    2:4."""
    scores, prunable = magnitudes(params), pruning.select(params, "conv_kernels")
    quarters = jax.tree.map(
        lambda leaf, take: np.round(4 * leaf / leaf.std()) / 4 if take else leaf, scores, prunable
    )
    equal = jax.tree.map(np.ones_like, scores)
    # A stem's three input channels are no multiple of four.
    fours = jax.tree.map(lambda leaf, take: take and leaf.shape[-2] % 4 == 0, scores, prunable)

    def made(given: Any, chosen: Any = prunable, sparsity: float = SPARSITY, **options: Any):
        return lambda: pruning.allocate(given, chosen, sparsity=sparsity, **options)

    by_fours = made(scores, fours, 0.5, scope="local", pattern=pruning.NM(2, 4))
    return {
        "rounded scores": made(quarters),
        "equal scores": made(equal),
        "min_kept=1": made(scores, min_kept=1),
        **{scope: made(scores, scope=scope) for scope in ("local", "uniform", "erk", "lamp")},
        **({"2:4": by_fours} if any(jax.tree.leaves(fours)) else {}),
    }


def interleaved_medians(
    functions: dict[str, Callable[[], Any]], num_repeats: int
) -> dict[str, float]:
    """Median seconds of each function, after one call that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_number in range(num_repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def resident_bytes(field: str) -> int:
    """The resident set now (VmRSS) or the highest so far (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def start_of_highest() -> int:
    """Lets the highest resident set begin anew; returns the present one."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return resident_bytes("VmRSS")


def measure_memory(num_weights: int | None, what: str) -> None:
    """In a process of its own: prints weights, growth by one call, and peak, in bytes."""
    small = {"kernel": np.ones((2, 2, 2, 2), np.float32) * np.arange(2, dtype=np.float32)}
    pruning.prune(small, sparsity=0.25)
    params = make_params(num_weights)
    scores, prunable = params, pruning.select(params, "conv_kernels")
    if what == "allocate":
        scores = magnitudes(params)
    before = start_of_highest()
    if what == "allocate":
        mask = pruning.allocate(scores, prunable, sparsity=SPARSITY)
    else:
        mask = pruning.prune(params, sparsity=SPARSITY)
    jax.block_until_ready(mask)
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    peak = resident_bytes("VmHWM")
    print(num_bytes, peak - before, peak)


def memory(num_weights: int | None, what: str) -> tuple[int, int, int]:
    """`measure_memory` in a fresh process."""
    command = [sys.executable, str(Path(__file__).with_name("select.py")), "--measure", what]
    command += [] if num_weights is None else ["--num_weights", str(num_weights)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    num_bytes, growth, peak = map(int, printed.split())
    return num_bytes, growth, peak


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def report(num_weights: int | None, num_repeats: int, with_variants: bool) -> None:
    print(f"{cpu_name()}, {os.cpu_count()} cores; Python {platform.python_version()},", end=" ")
    print(f"JAX {jax.__version__}, NumPy {np.__version__}")
    params = make_params(num_weights)
    prunable = pruning.select(params, "conv_kernels")
    sizes = zip(jax.tree.leaves(params), jax.tree.leaves(prunable), strict=True)
    total = sum(leaf.size for leaf, take in sizes if take)
    print(
        f"{total:,} prunable weights, global, sparsity {SPARSITY}; medians of "
        f"{num_repeats} interleaved"
    )
    more = variants(params) if with_variants else {}
    seconds = interleaved_medians(contestants(params) | more, num_repeats)
    for name, value in seconds.items():
        print(f"{name:16} {1e3 * value:9.1f} ms  {value / seconds['numpy.partition']:5.2f} x")
    if not Path("/proc/self/clear_refs").exists():
        return
    for what in ("allocate", "prune"):
        num_bytes, growth, peak = memory(num_weights, what)
        print(f"{what:16} peak grows by {growth / num_bytes:.2f} x the weights' bytes,", end=" ")
        print(f"to {peak / 2**30:.2f} GiB (VmHWM)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--num_weights", type=int, help="synthetic layers of this many weights; left out: ResNet-18"
    )
    parser.add_argument("--num_repeats", type=int, default=21)
    parser.add_argument(
        "--variants", action="store_true", help="also ties, min_kept, other scopes, 2:4"
    )
    parser.add_argument(
        "--measure", choices=("allocate", "prune"), help="one memory measurement, as bytes"
    )
    args = parser.parse_args()
    if args.measure:
        measure_memory(args.num_weights, args.measure)
    else:
        # Ties are meant here.
        warnings.simplefilter("ignore", pruning.PruningWarning)
        report(args.num_weights, args.num_repeats, args.variants)


if __name__ == "__main__":
    main()
