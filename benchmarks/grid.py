"""Forks in worker processes against the same forks one after another in one process.

python benchmarks/grid.py [--model resnet20] [--width 1] [--batch 64] [--workers 2] [--rounds 1]
                          [--forks 12] [--epochs 2] [--steps 30]

A network on random 32x32 images. First a bare training step: in one process with all cores, and in
as many pinned processes as there are workers, at once. Then, unless --forks is 0, whole grids: the
trunk is trained once; each round trains all forks of it in one process and in workers, turn about,
from a copy of that workdir. Times are of whole commands, start-up, imports and compilation
included. The train steps compiled by each process are counted from JAX's own log.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from earlyprune_jax import config
from earlyprune_jax.grid import options
from earlyprune_jax.grid.workers import step_seconds

ROOT = Path(__file__).parent.parent
CONFIG = f"{ROOT / 'configs' / 'cifar10.py'}:small"
NUM_TEST = 64


def make_images(path: Path, num_train: int) -> None:
    """Random images of ten classes: the time of a step does not depend on what it sees."""
    rng = np.random.default_rng(0)
    arrays = {
        f"{kind}_{split}": made
        for split, count in (("train", num_train), ("test", NUM_TEST))
        for kind, made in (
            ("x", rng.integers(0, 256, (count, 32, 32, 3), np.uint8)),
            ("y", np.arange(count) % 10),
        )
    }
    np.savez(path, allow_pickle=False, **arrays)


def changes(images: Path, num_forks: int, flags: argparse.Namespace) -> dict[str, str]:
    """What this grid differs in from configs/cifar10.py:small."""
    return {
        "model.name": flags.model,
        "model.width_multiplier": str(flags.width),
        "data.name": f"npz:{images}",
        "data.train_fraction": "1",
        "data.test_fraction": "1",
        "train.num_epochs": "1",
        "train.batch_size": str(flags.batch),
        "train.eval_batch_size": str(NUM_TEST),
        "schedule.name": "constant",
        "fork.epochs": "1",
        "fork.retraining": "constant",
        "fork.constant_num_epochs": str(flags.epochs),
        "fork.num_replicates": str(num_forks),
        "signals.names": "",
        "signals.num_examples": "0",
        "fork.trigger": "",
    }


def command(
    images: Path, workdir: Path, num_forks: int, flags: argparse.Namespace, workers: int
) -> list[str]:
    overrides = [
        f"--config.{key}={value}" for key, value in changes(images, num_forks, flags).items()
    ]
    start = [
        sys.executable,
        "-m",
        "earlyprune_jax.main",
        f"--config={CONFIG}",
        f"--workdir={workdir}",
    ]
    return [*start, f"--workers={workers}", *overrides]


def bare_steps(images: Path, flags: argparse.Namespace) -> tuple[float, float]:
    """Milliseconds of a step with all cores, and the mean in pinned processes that run at the same
    time."""
    spec = config.resolve(config.load_file(CONFIG), list(changes(images, 1, flags).items()))

    def milliseconds(cores: list[int]) -> float:
        return 1e3 * statistics.fmean(step_seconds(spec, cores).values())

    cores = options.usable_cores()
    alone = milliseconds(cores)
    with ThreadPoolExecutor(flags.workers) as several:
        return alone, statistics.fmean(
            several.map(milliseconds, options.shares(cores, flags.workers))
        )


def run(arguments: list[str]) -> tuple[float, int]:
    """Seconds of a whole command, and how many train steps its processes compiled."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_LOG_COMPILES": "1"}
    started = time.monotonic()
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, cwd=ROOT)
    seconds = time.monotonic() - started
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return seconds, len(re.findall(r"Compiling (?:jit\()?train_step", done.stderr))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=64)
    for name, default in (
        ("forks", 12),
        ("epochs", 2),
        ("steps", 30),
        ("workers", 2),
        ("rounds", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder) / "images.npz", flags.batch * flags.steps)
        alone, each = bare_steps(Path(folder) / "images.npz", flags)
        print(f"{flags.model}, width {flags.width:g}, batch {flags.batch}, a bare step:")
        print(
            f"{alone:.0f} ms with all cores, {each:.0f} ms in each of {flags.workers} "
            f"pinned processes"
        )
        print(f"ratio    {each / flags.workers / alone:.2f}")
        if flags.forks:
            compare_grids(Path(folder), flags)


def compare_grids(place: Path, flags: argparse.Namespace) -> None:
    times: dict[int, list[float]] = {1: [], flags.workers: []}
    compiled: dict[int, int] = {}
    run(command(place / "images.npz", place / "trunk", 1, flags, 1))
    for number in range(flags.rounds):
        for workers in times:
            workdir = place / f"round-{number}-{workers}"
            shutil.copytree(place / "trunk", workdir)
            arguments = command(place / "images.npz", workdir, 1 + flags.forks, flags, workers)
            seconds, compiled[workers] = run(arguments)
            times[workers].append(seconds)
    print(f"{flags.forks} forks of {flags.epochs} epochs of {flags.steps} steps")
    print("workers  seconds (each round)  train steps compiled")
    for workers, seconds in times.items():
        print(
            f"{workers:7d}  {'  '.join(f'{value:7.1f}' for value in seconds):20s}  "
            f"{compiled[workers]}"
        )
    pairs = zip(times[flags.workers], times[1], strict=True)
    ratios = [several / one for several, one in pairs]
    print(
        f"ratio    {statistics.median(ratios):.2f} (median of "
        f"{', '.join(f'{r:.2f}' for r in ratios)})"
    )


if __name__ == "__main__":
    main()
