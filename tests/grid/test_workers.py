"""Worker processes: the table of one process, killed workers, ends that are reported."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from earlyprune_jax import main
from earlyprune_jax.grid import options
from earlyprune_jax.grid.options import Options
from earlyprune_jax.run_records import RunRecords

ROOT = Path(__file__).parent.parent.parent
NUM_CELLS = 12
DEADLINE_SECONDS = 600

pytestmark = pytest.mark.skipif(
    len(options.usable_cores()) < 2 or not Path("/proc/self/task").is_dir(),
    reason="needs Linux and 2 cores",
)


def arguments(npz: Path, workdir: Path) -> list[str]:
    """3 epochs x 2 sparsities x 2 replicates: 12 forks of one trunk."""
    changes = {
        "data.name": f"npz:{npz}",
        "data.num_classes": "2",
        "data.train_fraction": "1.0",
        "data.crop_padding": "1",
        "model.name": "own_code:ConvNet",
        "model.width_multiplier": "0.125",
        "train.num_epochs": "6",
        "train.batch_size": "8",
        "train.seeds": "0",
        "schedule.step_boundaries_epochs": "3",
        "fork.epochs": "1,3,5",
        "fork.retraining": "constant",
        "fork.constant_num_epochs": "6",
        "fork.num_replicates": "2",
        "fork.comparisons": "disagreement",
        "pruning.sparsities": "0.5,0.9",
        "signals.names": "kl_uniform",
    }
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    config = f"--config={ROOT / 'configs' / 'digits.py'}"
    return [config, *flags, f"--workdir={workdir}"]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    command, pipe = [sys.executable, "-m", "earlyprune_jax.main", *arguments], subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def children(pid: int) -> list[int]:
    """The worker processes of a running command."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in task.read_text().split()]
    lines = {child: Path(f"/proc/{child}/cmdline") for child in found}
    return [
        child
        for child, line in lines.items()
        if line.exists() and b"grid.workers" in line.read_bytes()
    ]


def num_epochs(workdir: Path) -> int:
    return sum(path.read_text().count("\n") for path in workdir.glob("*/*/metrics.jsonl"))


def num_ended(workdir: Path) -> int:
    return sum(1 for kind in ("trunks", "forks") for _ in workdir.glob(f"{kind}/*/result.json"))


def table(workdir: Path) -> list[dict[str, str]]:
    with (workdir / "results.csv").open() as file:
        return [
            {name: cell for name, cell in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]


@pytest.fixture(scope="module")
def of_one_process(tiny_npz, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one") / "run"
    assert main.main([*arguments(tiny_npz, workdir), "--workers=1"]) == 0
    return table(workdir)


@pytest.mark.usefixtures("empty_figures")
def test_what_killed_and_stopped_workers_have_trained_is_what_one_process_trains(
    tiny_npz, tmp_path, of_one_process, capsys
):
    """A worker is killed, some random time after the grid has moved on; when a third of the runs is
    done SIGTERM stops the command and its workers, and one process goes on."""
    workdir, rng = tmp_path / "run", random.Random(0)
    process = start([*arguments(tiny_npz, workdir), "--workers=2"])
    deadline = time.monotonic() + DEADLINE_SECONDS

    def wait_until(reached: Callable[[], bool]) -> list[int]:
        while not (reached() and children(process.pid)):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        return children(process.pid)

    wait_until(lambda: num_epochs(workdir) > 0)
    time.sleep(rng.uniform(0, 0.2))
    os.kill(rng.choice(children(process.pid)), signal.SIGKILL)
    workers = wait_until(lambda: num_ended(workdir) > NUM_CELLS // 3)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 130, text
    assert text.count("another takes its place") == 1
    assert any(f"/{NUM_CELLS * 3 // 2 + 1}] fork seed 0 at" in line for line in text.splitlines())
    assert workers and not any(Path(f"/proc/{pid}").exists() for pid in workers)
    by_workers = num_ended(workdir)
    assert NUM_CELLS // 3 < by_workers < 1 + NUM_CELLS
    assert main.main([*arguments(tiny_npz, workdir), "--workers=1"]) == 0
    assert "13 finished, 0 diverged, 0 skipped." in capsys.readouterr().out
    assert table(workdir) == of_one_process
    assert len(of_one_process) == 1 + NUM_CELLS
    assert len(list(workdir.glob("comparisons/*/result.json"))) == NUM_CELLS // 2
    for path in workdir.glob("*/*/metrics.jsonl"):
        epochs = [entry["epoch"] for entry in RunRecords(path.parent).epochs()]
        assert epochs == list(range(epochs[0], epochs[0] + 6)), path
    assert not list(workdir.glob("*/*/attempts.json"))


def test_cores_are_shared_out_evenly_and_none_twice():
    for num_cores in (2, 5, 8):
        for num_workers in range(1, num_cores + 1):
            parts = options.shares(list(range(num_cores)), num_workers)
            assert sorted(core for part in parts for core in part) == list(range(num_cores))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_workers_are_for_cpus():
    (problem,) = Options(num_workers=2).check_backend(lambda: "gpu")
    assert "--workers=2 to be 1 on gpu" in problem
    assert Options(num_workers=2).check_backend(lambda: "cpu") == []
    assert Options(num_workers=1).check_backend(lambda: "gpu") == []
