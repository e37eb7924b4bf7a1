"""A real process, really stopped: SIGTERM and SIGKILL lose nothing that was finished."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from earlyprune_jax import main

pytestmark = pytest.mark.usefixtures("empty_figures")

ROOT = Path(__file__).parent.parent
DEADLINE_SECONDS = 120
EXIT_CODES = {signal.SIGTERM: main.INTERRUPTED, signal.SIGKILL: -signal.SIGKILL}


def arguments(npz: Path, workdir: Path) -> list[str]:
    return [
        f"--config={ROOT / 'configs' / 'digits.py'}",
        f"--config.data.name=npz:{npz}",
        "--config.data.num_classes=2",
        "--config.data.train_fraction=1.0",
        "--config.model.name=own_code:ConvNet",
        "--config.train.num_epochs=40",
        "--config.train.batch_size=8",
        "--config.train.seeds=0",
        "--config.fork.epochs=36",
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


def stop(command: list[str], workdir: Path, how: signal.Signals) -> int:
    """Starts a process, signals it once its trunk has two epochs, returns its exit code."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not any(
        path.read_text().count("\n") >= 2 for path in workdir.glob("trunks/*/metrics.jsonl")
    ):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    return process.wait(DEADLINE_SECONDS)


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
    assert stop(command, workdir, how) == EXIT_CODES[how]
    assert not list(workdir.glob("trunks/*/result.json"))
    assert main.main(arguments(tiny_npz, workdir)) == 0
    assert metrics(workdir) == uninterrupted
