"""A real process, really stopped: SIGTERM and SIGKILL lose nothing that was finished; nor does a
standard output that nobody reads, or a standard error that is full, end it before."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import LAST_RESORT_SECONDS, Gate, wait_until

from earlyprune_jax import leaving, main

pytestmark = pytest.mark.usefixtures("empty_figures")

ROOT = Path(__file__).parent.parent
EXIT_CODES = {signal.SIGTERM: leaving.TERMINATED, signal.SIGKILL: -signal.SIGKILL}


def arguments(npz: Path, workdir: Path) -> list[str]:
    return [
        f"--config={ROOT / 'configs' / 'digits.py'}",
        f"--config.data.name=npz:{npz}",
        "--config.data.num_classes=2",
        "--config.data.train_fraction=1.0",
        "--config.model.name=own_code:ConvNet",
        "--config.train.num_epochs=8",
        "--config.train.batch_size=8",
        "--config.train.seeds=0",
        "--config.fork.when=trigger",
        "--config.fork.fallback_epoch=0",
        "--config.fork.trigger=own_code:GatedEpoch(5)",
        "--config.model.width_multiplier=0.125",
        "--config.signals.names=kl_uniform",
        f"--workdir={workdir}",
    ]


def metrics(workdir: Path) -> dict[str, list[dict]]:
    """Every run's entries without their times."""
    found = {}
    for path in sorted(workdir.glob("*/*/metrics.jsonl")):
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.parent.name] = [
            {k: v for k, v in e.items() if "seconds" not in k and k != "checksum"} for e in entries
        ]
    return found


def stop(command: list[str], gate: Gate, how: signal.Signals) -> int:
    """Starts a process that nobody listens to, signals it at the gate, returns its exit code."""
    reader, nobody = os.pipe()
    os.close(reader)
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(
            command, cwd=ROOT, env=gate.environment, stdout=nobody, stderr=full
        )
    os.close(nobody)
    wait_until(lambda: gate.num_held() > 0, process)
    process.send_signal(how)
    return process.wait(LAST_RESORT_SECONDS)


@pytest.fixture(scope="module")
def uninterrupted(tiny_npz, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert main.main(arguments(tiny_npz, workdir)) == 0
    return metrics(workdir)


@pytest.mark.parametrize("how", EXIT_CODES)
def test_a_stopped_process_goes_on_where_it_was_and_ends_the_same(
    tiny_npz, tmp_path, uninterrupted, how
):
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "earlyprune_jax.main", *arguments(tiny_npz, workdir)]
    assert stop(command, Gate(tmp_path / "calls", count=1), how) == EXIT_CODES[how]
    (records,) = workdir.glob("trunks/*/metrics.jsonl")
    assert records.read_text().count("\n") == 2
    assert not list(workdir.glob("trunks/*/result.json"))
    # Only a process that was killed counts as one that has died at its run.
    was_told = how != signal.SIGKILL
    assert was_told != bool(list(workdir.glob("trunks/*/attempts.json")))
    assert main.main(arguments(tiny_npz, workdir)) == 0
    assert metrics(workdir) == uninterrupted
