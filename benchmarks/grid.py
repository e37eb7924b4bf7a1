"""Forks in worker processes against the same forks one after another in one process.

python benchmarks/grid.py [--model resnet20] [--forks 12] [--epochs 2] [--steps 30] [--workers 2] [--rounds 1]

A network on random 32x32 images, batches of 64. The trunk is trained once; then each round trains all
forks of it in one process and in workers, turn about, from a copy of that workdir. Times are of whole
commands, start-up, imports and compilation included. The train steps compiled by each process are
counted from JAX's own log.
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
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
BATCH_SIZE = 64


def make_images(path: Path, num_train: int) -> None:
    """Random images of ten classes: the time of a step does not depend on what it sees."""
    rng = np.random.default_rng(0)
    arrays = {
        f"{kind}_{split}": made
        for split, count in (("train", num_train), ("test", BATCH_SIZE))
        for kind, made in (
            ("x", rng.integers(0, 256, (count, 32, 32, 3), np.uint8)),
            ("y", np.arange(count) % 10),
        )
    }
    np.savez(path, allow_pickle=False, **arrays)


def command(
    images: Path, workdir: Path, num_forks: int, flags: argparse.Namespace, workers: int
) -> list[str]:
    changes = {
        "model.names": flags.model,
        "data.name": f"npz:{images}",
        "data.train_fractions": "1",
        "data.test_fraction": "1",
        "train.num_epochs": "1",
        "train.batch_size": str(BATCH_SIZE),
        "train.eval_batch_size": str(BATCH_SIZE),
        "schedule.names": "constant",
        "fork.epochs": "1",
        "fork.rules": "constant",
        "fork.constant_num_epochs": str(flags.epochs),
        "fork.num_replicates": str(num_forks),
        "signals.names": "",
        "signals.num_examples": "0",
        "fork.trigger": "",
    }
    overrides = [f"--config.{key}={value}" for key, value in changes.items()]
    config = f"--config={ROOT / 'configs' / 'cifar10_small.py'}"
    start = [sys.executable, "-m", "earlyprune_jax.main", config, f"--workdir={workdir}"]
    return [*start, f"--workers={workers}", *overrides]


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    for name, default in (("forks", 12), ("epochs", 2), ("steps", 30), ("workers", 2), ("rounds", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    flags = parser.parse_args()
    times: dict[int, list[float]] = {1: [], flags.workers: []}
    compiled: dict[int, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_images(place / "images.npz", BATCH_SIZE * flags.steps)
        run(command(place / "images.npz", place / "trunk", 1, flags, 1))
        for number in range(flags.rounds):
            for workers in times:
                workdir = place / f"round-{number}-{workers}"
                shutil.copytree(place / "trunk", workdir)
                arguments = command(place / "images.npz", workdir, 1 + flags.forks, flags, workers)
                seconds, compiled[workers] = run(arguments)
                times[workers].append(seconds)
    print(
        f"{flags.forks} forks of {flags.epochs} epochs of {flags.steps} steps, "
        f"{flags.model}, batch {BATCH_SIZE}"
    )
    print("workers  seconds (each round)  train steps compiled")
    for workers, seconds in times.items():
        print(f"{workers:7d}  {'  '.join(f'{value:7.1f}' for value in seconds):20s}  {compiled[workers]}")
    pairs = zip(times[flags.workers], times[1], strict=True)
    ratios = [several / one for several, one in pairs]
    print(f"ratio    {statistics.median(ratios):.2f} (median of {', '.join(f'{r:.2f}' for r in ratios)})")


if __name__ == "__main__":
    main()
