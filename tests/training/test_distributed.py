"""Real processes that train as one, from the command line: one process's numbers, and what a death
leaves.

    pytest -m slow tests/training/test_distributed.py

Every process is this Python with one CPU device; they meet on a free port of this machine. Each
starts in a directory of its own, and the workdir is relative: what one writes, the other does not
see.
"""

import csv
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from members import fork
from tiny import tiny_experiment
from waiting import LAST_RESORT_SECONDS, wait_until

from earlyprune_jax import config, workspace
from earlyprune_jax.grid import members as grid_members
from earlyprune_jax.grid.study import MOST_ATTEMPTS
from earlyprune_jax.records import write_json
from earlyprune_jax.run_records import RunRecords

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
CONFIG = """
from pathlib import Path

from tiny import tiny_experiment


def get_config():
    return tiny_experiment(Path({npz!r}))
"""
CHANGES = {
    "schedule.name": "own_code:gated_constant",
    "train.num_epochs": "8",
    "fork.retraining": "constant",
    "fork.constant_num_epochs": "1",
    "fork.num_replicates": "2",
    "fork.comparisons": "model_similarity",
}
WORKDIR = "run"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def start(command: Sequence[str], home: Path, **more: str) -> subprocess.Popen[str]:
    """A process with one device, whatever this one was started with."""
    home.mkdir(parents=True, exist_ok=True)
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = os.environ | {"PYTHONPATH": paths, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    environment |= more
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait(processes: Sequence[subprocess.Popen[str]]) -> tuple[list[int], list[str], list[str]]:
    """Exit codes, what was printed, and what was said of errors."""
    try:
        told = [process.communicate(timeout=LAST_RESORT_SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return (
        [process.returncode for process in processes],
        [out for out, _ in told],
        [err for _, err in told],
    )


def arguments(home: Path, npz: Path, **changes: str) -> list[str]:
    file = home / f"{npz.stem}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(CONFIG.format(npz=str(npz)))
    chosen = CHANGES | {name.replace("__", "."): value for name, value in changes.items()}
    overrides = [f"--config.{name}={value}" for name, value in chosen.items()]
    return ["-m", "earlyprune_jax.main", f"--config={file}", f"--workdir={WORKDIR}", *overrides]


def pair(
    home: Path, npz: Path, environment: Mapping[str, str] = MappingProxyType({}), /, **changes: str
) -> list[subprocess.Popen[str]]:
    """Two processes that train as one, started in home/0 and home/1."""
    shared = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    command = arguments(home, npz, **changes) + shared
    return [
        start([*command, f"--process_id={number}"], home / str(number), **environment)
        for number in (0, 1)
    ]


def spoil(home: Path, npz: Path) -> None:
    """Makes one fork fail: by what is on record, every process that has tried it has died."""
    spec = config.resolve(tiny_experiment(npz), list(CHANGES.items()))
    directory = home / WORKDIR / grid_members.directory(spec, fork(2, "constant", replicate=1))
    directory.mkdir(parents=True)
    write_json(directory / "attempts.json", {"num_epochs": 0, "count": MOST_ATTEMPTS})
    write_json(home / WORKDIR / "config.json", spec.to_dict())
    write_json(home / WORKDIR / "study.json", {"format": workspace.FORMAT})


def table(home: Path, name: str = "results.csv") -> list[dict[str, str]]:
    """The rows without times, and without what names a directory."""
    with (home / WORKDIR / name).open() as file:
        return [
            {k: v.replace(str(home), "") for k, v in row.items() if "seconds" not in k}
            for row in csv.DictReader(file)
        ]


def comparisons(home: Path) -> list[dict[str, Any]]:
    paths = sorted((home / WORKDIR).glob("comparisons/*/result.json"))
    return [RunRecords(path.parent).result() or {} for path in paths]


def assert_close(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Numbers up to the order of sums, what is no number exactly."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            assert found[name] == value, name
        else:
            assert float(found[name]) == pytest.approx(number, rel=1e-4, abs=1e-6), name


@pytest.fixture(scope="module")
def studied(tiny_npz, tmp_path_factory) -> tuple[Path, Path, list[str]]:
    """A study by one process and by two, a fork of which fails; where they are, and what the two
    printed."""
    home, changes = tmp_path_factory.mktemp("studied"), {"pruning__criteria": "magnitude,taylor"}
    printed = []
    for name in ("alone", "together"):
        own = home / name / "0"
        spoil(own, tiny_npz)
        if name == "alone":
            started = [start(arguments(home / name, tiny_npz, **changes), own)]
        else:
            started = pair(home / name, tiny_npz, **changes)
        codes, printed, errors = wait(started)
        # As one process says of a study in which a run has failed.
        assert codes == [1] * len(started), errors
    return home / "alone", home / "together", printed


def test_two_processes_write_the_tables_of_one(studied):
    alone, together, _ = studied
    rows = table(alone / "0")
    assert sorted(row["status"] for row in rows) == ["failed", *["finished"] * 4]
    for name in ("results.csv", "signals.csv"):
        for found, wanted in zip(
            table(together / "0", name), table(alone / "0", name), strict=True
        ):
            assert_close(found, wanted)
    assert sorted(each["status"] for each in comparisons(alone / "0")) == ["finished", "skipped"]
    for found, wanted in zip(comparisons(together / "0"), comparisons(alone / "0"), strict=True):
        assert_close(found, wanted)


def test_process_1_writes_and_prints_nothing(studied):
    _, together, printed = studied
    assert list((together / "1").iterdir()) == []
    assert "Workdir" in printed[0] and "Recommendation" in printed[0]
    # The library that connects processes speaks for itself.
    assert [line for line in printed[1].splitlines() if not line.startswith("[Gloo]")] == []


def num_epochs(home: Path) -> int:
    """Epochs of the trunk on record."""
    paths = (home / WORKDIR).glob("trunks/*/metrics.jsonl")
    return sum(path.read_text().count("\n") for path in paths)


def is_full(calls: Path) -> bool:
    return calls.exists() and calls.stat().st_size > CALLS


def stop_both(processes: Sequence[subprocess.Popen[str]]) -> None:
    """As a batch system does."""
    for process in processes:
        process.send_signal(signal.SIGTERM)


CALLS = 6
"""Of the schedule: four before the first epoch, and one before each."""

TERMINATED, FAILED, ABORTED, KILLED = 143, 1, -signal.SIGABRT, -signal.SIGKILL
DEATHS: list[tuple[Callable[[Sequence[subprocess.Popen[str]]], None], set[int], set[int]]] = [
    # Whoever leaves first takes the other along, before it has heeded the signal perhaps.
    (stop_both, {TERMINATED, FAILED, ABORTED}, {TERMINATED, FAILED, ABORTED}),
    (lambda processes: processes[1].kill(), {FAILED, ABORTED}, {KILLED}),
    (lambda processes: processes[0].kill(), {KILLED}, {FAILED, ABORTED}),
]


def test_a_study_that_has_died_thrice_goes_on_to_the_same_table(studied, tiny_npz, tmp_path):
    for die, first, second in DEATHS:
        before = num_epochs(tmp_path / "0")
        processes = pair(tmp_path, tiny_npz, {"GATE": f"{CALLS}:calls"})
        files = [tmp_path / str(number) / "calls" for number in (0, 1)]
        wait_until(lambda files=files: all(map(is_full, files)), *processes)
        die(processes)
        for file in files:
            file.unlink()
        codes, _, errors = wait(processes)
        assert codes[0] in first and codes[1] in second, (codes, errors)
        assert before < num_epochs(tmp_path / "0") < 8
    codes, _, errors = wait(pair(tmp_path, tiny_npz))
    assert codes == [0, 0], errors
    _, together, _ = studied
    of_the_same_cells = [row for row in table(together / "0") if row["criterion"] != "taylor"]
    found = table(tmp_path / "0")
    # To the last bit; the one that had failed there is done here.
    assert [row for row in found if row["replicate"] != "1"] == [
        row for row in of_the_same_cells if row["replicate"] != "1"
    ]
    assert [row["status"] for row in found] == ["finished"] * 3


def test_what_speaks_against_starting_ends_all_with_one_message(tiny_npz, tmp_path):
    arrays = dict(np.load(tiny_npz))
    for number, images in enumerate((arrays["x_train"], arrays["x_train"][::-1])):
        (tmp_path / "data" / str(number)).mkdir(parents=True)
        np.savez(tmp_path / "data" / str(number) / "own.npz", **(arrays | {"x_train": images}))
    sizes = {"train__batch_size": "7", "signals__batch_size": "9"}
    for name, file, changes, said in (
        (
            "sizes",
            tiny_npz,
            sizes,
            ("train.batch_size=7", "Nearest: 6 or 8.", "signals.batch_size=9"),
        ),
        ("data", Path("own.npz"), {}, ("Expected data=", "differs from process 0's in [1]")),
    ):
        codes, _, errors = wait(pair(tmp_path / name, file, **changes))
        assert codes == [2, 2], errors
        assert all(words in text for words in said for text in errors)
        assert not (tmp_path / name / "0" / WORKDIR).exists()


def said(process: subprocess.Popen[str], words: str) -> str:
    """Reads what a process says of errors until somebody has said so."""
    assert process.stderr is not None
    return next(line for line in process.stderr if words in line)


@pytest.mark.parametrize(
    ("process_id", "number", "code"), [(0, signal.SIGINT, 130), (1, signal.SIGTERM, 143)]
)
def test_a_process_whose_partners_do_not_come_says_so_and_ends_at_once(
    tiny_npz, tmp_path, process_id, number, code
):
    """JAX itself would wait for five minutes."""
    shared = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    command = [*arguments(tmp_path, tiny_npz), *shared, f"--process_id={process_id}"]
    process = start(command, tmp_path)
    line = said(process, "waiting for")
    assert "2 processes to meet at 127.0.0.1:" in line and f"this is process {process_id}." in line
    process.send_signal(number)
    codes, _, errors = wait([process])
    assert codes == [code] and "Traceback" not in errors[0]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_process_that_waits_for_a_silent_one_says_so_and_ends_at_once(
    tiny_npz, tmp_path, number, code
):
    # The last call before the processes compare their configs.
    first, second = processes = pair(tmp_path, tiny_npz, {"GATE": "3:calls"})
    calls = tmp_path / "1" / "calls"
    wait_until(lambda: calls.exists() and calls.stat().st_size > 3, *processes)
    first.send_signal(signal.SIGSTOP)
    calls.unlink()
    assert "waiting for the other processes." in said(second, "waiting for")
    second.send_signal(number)
    codes, _, errors = wait([second])
    first.kill()
    wait([first])
    assert codes == [code] and "Traceback" not in errors[0]


ERRORS = """
import os, sys, traceback
from earlyprune_jax.training import multihost
multihost.SECONDS_TO_AGREE = 5
number = int(sys.argv[2])
multihost.initialize(sys.argv[1], 2, number)
multihost.require_same_error(ValueError(f"in all, of {number}"))
print("went on", flush=True)
try:
    if number == 1:
        multihost.require_same_error(ValueError("in one"))
    multihost.on_primary(lambda: 0)
    print("cannot be", flush=True)
except Exception:
    traceback.print_exc()
    # An ordinary exit would wait for the other process.
    os._exit(1)
"""


def test_an_error_of_one_process_ends_it_and_one_of_all_does_not(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    processes = [start(["-c", ERRORS, address, str(number)], tmp_path) for number in (0, 1)]
    codes, printed, errors = wait(processes)
    assert codes == [1, 1]
    assert all("went on" in text and "cannot be" not in text for text in printed)
    assert "ValueError: in one" in errors[1] and "Process 1 alone" in errors[1]
