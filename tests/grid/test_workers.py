"""Worker processes: the table of one process, killed workers, ends that are reported."""

import csv
import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from waiting import LAST_RESORT_SECONDS, Gate, wait_until

from earlyprune_jax import leaving, main
from earlyprune_jax.grid import options, workers
from earlyprune_jax.grid.options import Options
from earlyprune_jax.run_records import RunRecords

ROOT = Path(__file__).parent.parent.parent
NUM_CELLS = 12

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
        "pruning.criteria": "own_code:gated_magnitude",
        "pruning.sparsities": "0.5,0.9",
        "signals.names": "kl_uniform",
    }
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    config = f"--config={ROOT / 'configs' / 'digits.py'}"
    return [config, *flags, f"--workdir={workdir}"]


def start(arguments: list[str], gate: Gate) -> subprocess.Popen[str]:
    command, pipe = [sys.executable, "-m", "earlyprune_jax.main", *arguments], subprocess.PIPE
    return subprocess.Popen(
        command, cwd=ROOT, env=gate.environment, stdout=pipe, stderr=subprocess.STDOUT, text=True
    )


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


def is_alive(pid: int) -> bool:
    """A dead one that nobody has asked about is no more than its number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


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
    """A worker is killed when the grid has moved on; when both wait before the next fork, SIGTERM
    stops the command, which takes them along, and one process goes on."""
    workdir, gate = tmp_path / "run", Gate(tmp_path / "calls", count=NUM_CELLS // 2)
    process = start([*arguments(tiny_npz, workdir), "--workers=2"], gate)
    wait_until(lambda: num_epochs(workdir) > 0 and len(children(process.pid)) == 2, process)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    wait_until(lambda: gate.num_held() == 2, process)
    workers = children(process.pid)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=LAST_RESORT_SECONDS)
    assert process.returncode == leaving.TERMINATED and "Traceback" not in text, text
    assert text.count("another takes its place") == 1
    assert any(f"/{NUM_CELLS * 3 // 2 + 1}] fork seed 0 at" in line for line in text.splitlines())
    wait_until(lambda: not any(is_alive(pid) for pid in workers))
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


def test_a_worker_ignores_ctrl_c_and_leaves_when_its_parent_has_died():
    started: list[subprocess.Popen[bytes]] = []

    def hold_back_and_start() -> None:
        workers._bind(options.usable_cores())
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(workers.COMMAND, stdin=pipe, stdout=pipe, stderr=pipe))

    thread = threading.Thread(target=hold_back_and_start)
    thread.start()
    thread.join()
    (process,) = started
    assert process.stdin and process.stdout and process.stderr
    process.send_signal(signal.SIGINT)
    with process.stdin:
        process.stdin.write(pickle.dumps(importlib.import_module("own_code").wait_for_ever))
        process.stdin.flush()
        assert pickle.load(process.stdout) == ("say", "waiting")
        process.send_signal(signal.SIGINT)
        assert process.poll() is None
    assert process.wait(LAST_RESORT_SECONDS) == leaving.TERMINATED
    with process.stdout, process.stderr:
        assert process.stderr.read() == b""


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
