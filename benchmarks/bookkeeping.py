"""What a large grid costs beside training: names, locks, reading the runs, tables, figures,
summary.

    python benchmarks/bookkeeping.py [--num_forks 100 1000 10000] [--num_epochs 40]

Makes a workdir of finished runs in a temporary directory: trunks with signals, and forks over 16
fork epochs x 9 sparsities x 3 replicates, as many seeds as it takes. Each step runs in a process of
its own and reads the files itself, from the page cache. Seconds are those of the step; MiB the peak
resident memory of its process, and beside it what that was before the step: Python, NumPy and the
package.
"""

import argparse
import functools
import itertools
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from configs import two_regime
from earlyprune_jax import config, records, workspace
from earlyprune_jax.analysis import results, summary
from earlyprune_jax.grid import members, plan
from earlyprune_jax.grid.locks import RunLocks
from earlyprune_jax.metrics import PERCENT
from earlyprune_jax.run_records import RunRecords

SETTING = {"model": "resnet20", "train_fraction": 1.0, "schedule": "step"}
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99)
NUM_FORK_EPOCHS, NUM_REPLICATES, NUM_PARAMETERS = 16, 3, 60


def names(workdir):
    """Plans a grid of as many forks as the workdir has, and names its members."""
    count = len(list((Path(workdir) / "forks").iterdir()))
    per_seed = NUM_FORK_EPOCHS * len(SPARSITIES) * NUM_REPLICATES
    seeds = ",".join(map(str, range(-(-count // per_seed))))
    spec = config.resolve(two_regime.get_config(), [("train.seeds", seeds)])
    return [members.directory(spec, member) for member in plan.members(spec)]


def locks(workdir):
    """Takes and releases the lock of every run."""
    for directory in (Path(workdir) / "forks").iterdir():
        locks = RunLocks()
        assert locks.take(directory)
        locks.close()


STEPS = {
    "names": names,
    "locks": locks,
    "read_runs": results.read_runs,
    "write_tables": results.write_tables,
    "publish": results.publish,
    "summarize": summary.summarize,
}


def entry_of(epoch, accuracy, rng):
    """One line of metrics.jsonl, with as many digits as a real one."""
    noise = float(rng.normal(0.0, 0.003))
    return {
        "epoch": epoch,
        "step": 390 * epoch,
        "learning_rate": 0.1 * 0.97**epoch,
        "train_loss": 2.3 * math.exp(-epoch / 20) + abs(noise),
        "train_accuracy": min(1.0, accuracy + 0.05 + noise),
        "train_seconds": 11.0 + 100 * noise,
        "validation_loss": 0.4 + noise,
        "validation_accuracy": accuracy + noise,
        "test_loss": 0.41 + noise,
        "test_accuracy": accuracy - noise,
        "seconds": 12.5 + 100 * noise,
    }


def signals_of(epoch, rng):
    values = {
        f"stage{i}/block{i % 9}/conv/kernel": float(rng.random()) for i in range(NUM_PARAMETERS)
    }
    return {
        "fisher_trace": 1291.0 * epoch / 30 * math.exp(1 - epoch / 30),
        "kl_uniform_bits": 3.0 * (1 - math.exp(-epoch / 5)),
        "random_distance": 0.03 + float(rng.random()),
        "mask_distance": 0.1 / epoch,
        "fisher_trace_by_parameter": values,
    }


def write_run(directory, identity, entries, *, last_epoch, sparsity):
    described = {**identity, "first_epoch": entries[0]["epoch"] - 1, "last_epoch": last_epoch}
    run = RunRecords(directory)
    run.start(described)
    for entry in entries:
        run.append(entry)
    ended = {"status": "finished", "epoch": last_epoch, "step": 390 * last_epoch}
    run.finish(ended | {"achieved_sparsity": sparsity})


def write_trunk(workdir, seed, num_epochs, rng):
    axes = dict.fromkeys(
        ("fork_epoch", "criterion", "scope", "sparsity", "retraining", "replicate")
    )
    identity = {"kind": "trunk", **SETTING, "trunk_seed": seed, **axes}
    entries = [
        {
            **entry_of(epoch, 0.92 * (1 - math.exp(-epoch / 8)), rng),
            "signals": signals_of(epoch, rng),
        }
        for epoch in range(1, num_epochs + 1)
    ]
    write_run(
        workdir / f"trunks/seed-{seed}", identity, entries, last_epoch=num_epochs, sparsity=0.0
    )


def write_fork(workdir, seed, axes, num_epochs, rng):
    fork_epoch, sparsity, replicate = axes
    identity = {"kind": "fork", **SETTING, "trunk_seed": seed, "fork_epoch": fork_epoch}
    identity |= {
        "criterion": "magnitude",
        "scope": "uniform",
        "sparsity": sparsity,
        "retraining": "constant",
    }
    identity |= {"replicate": replicate, "parent": f"trunks/seed-{seed}", "parent_sha256": "0" * 64}
    best = 0.92 - 0.1 * sparsity**8 - 0.0003 * abs(fork_epoch - 60)
    entries = [
        entry_of(fork_epoch + epoch, best - 0.2 / epoch, rng) for epoch in range(1, num_epochs + 1)
    ]
    name = f"seed-{seed}_epoch-{fork_epoch}_magnitude_uniform_s{sparsity}_constant_r{replicate}"
    write_run(
        workdir / "forks" / name,
        identity,
        entries,
        last_epoch=fork_epoch + num_epochs,
        sparsity=sparsity,
    )


def make(workdir, num_forks, num_epochs):
    """So many finished forks, and the trunks they leave."""
    rng = np.random.default_rng(0)
    trunk_epochs = 10 * NUM_FORK_EPOCHS
    config = {
        "data": {"name": "cifar10"},
        "train": {"num_epochs": trunk_epochs},
        "fork": {"trigger": ""},
    }
    # The page cache is what is read: nothing need reach the disk.
    os.fsync = lambda _: None
    metrics = [
        {"name": name, "unit": unit, "larger_is_better": unit == PERCENT}
        for name, unit in (("loss", "nats"), ("accuracy", PERCENT))
    ]
    described = {"format": workspace.FORMAT, "metrics": metrics, "primary": "accuracy"}
    records.write_of_study(workdir, records.STUDY, described)
    records.write_of_study(workdir, records.CONFIG, config)
    fork_epochs = range(10, trunk_epochs + 1, 10)
    cells = list(itertools.product(fork_epochs, SPARSITIES, range(NUM_REPLICATES)))
    for index in range(num_forks):
        seed, place = divmod(index, len(cells))
        if place == 0:
            write_trunk(workdir, seed, trunk_epochs, rng)
        write_fork(workdir, seed, cells[place], num_epochs, rng)


def peak_mebibytes():
    # Linux counts kibibytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def print_cost(step, workdir):
    before, began = peak_mebibytes(), time.perf_counter()
    STEPS[step](workdir)
    print(json.dumps([time.perf_counter() - began, peak_mebibytes(), before]))


def cost(step, workdir):
    """Seconds, peak and earlier peak in mebibytes of a step in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--workdir", str(workdir)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num_forks", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--num_epochs", type=int, default=40, help="trained by every fork")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--workdir", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print_cost(arguments.step, arguments.workdir)
        return
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print(f"{'forks':>8s}  {'step':14s}{'seconds':>9s}{'MiB':>8s}{'before':>8s}")
    say = functools.partial(print, flush=True)
    for num_forks in arguments.num_forks:
        with tempfile.TemporaryDirectory() as directory:
            make(Path(directory), num_forks, arguments.num_epochs)
            for step in STEPS:
                seconds, peak, before = cost(step, directory)
                say(f"{num_forks:8d}  {step:14s}{seconds:9.2f}{peak:8.0f}{before:8.0f}")


if __name__ == "__main__":
    main()
