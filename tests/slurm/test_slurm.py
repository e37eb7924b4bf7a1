"""Studies on Slurm. What needs no cluster is in the default suite; the rest, in some four minutes,
with

apt-get install -y slurmctld slurmd slurm-client munge && \
    pip install -e '.[slurm,test]' && pytest -m slurm tests/slurm
"""

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from members import locate, trunk
from slurm_cluster import Cluster, SlurmMissing, cluster
from slurm_keeper import becomes_true, descendants

from earlyprune_jax import main
from earlyprune_jax.slurm import job as slurm_job
from earlyprune_jax.slurm import submission
from earlyprune_jax.slurm.options import SlurmOptions
from earlyprune_jax.workspace import job_id

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SECONDS = 300
EPOCH_LINE = re.compile(r"^(trunk|fork) .*?  epoch \d+", flags=re.MULTILINE)


@pytest.fixture
def tiny_file(tiny_npz, tmp_path) -> Path:
    """A config file of 3 trunks, 12 forks in 6 cells, and 6 comparisons."""
    path = tmp_path / "tiny_grid.py"
    path.write_text(
        f"""
from pathlib import Path
from tiny import tiny_experiment


def get_config():
    config = tiny_experiment(Path({str(tiny_npz)!r}))
    config.train.seeds = (0, 1, 2)
    config.fork.epochs = (1, 3)
    config.fork.num_replicates = 2
    config.fork.comparisons = ("model_similarity",)
    return config
"""
    )
    return path


def complaints(arguments: list[str], capsys) -> str:
    assert main.main(arguments) == 2
    return capsys.readouterr().err


def test_every_wrong_flag_is_named_at_once(capsys, tiny_file):
    wrong = ["minuts=4", "cpus=two", "extra="]
    said = complaints(
        [f"--config={tiny_file}", "--slurm", *(f"--slurm.{one}" for one in wrong)], capsys
    )
    assert "--slurm.KEY='minuts' to be one of partition, " in said and "'minutes'?" in said
    assert "Expected --slurm.cpus='two' to be of type int." in said
    assert "\nearlyprune_jax: 2 problems:\n" in said


def test_every_wrong_value_is_named_at_once_and_nothing_is_written(capsys, tiny_file, tmp_path):
    flags = [
        "--slurm.cpus=0",
        "--slurm.gpus=-1",
        "--slurm.extra=time=4",
        "--slurm.extra=",
        "--max_minutes=3",
    ]
    workdir = tmp_path / "run"
    arguments = [f"--config={tiny_file}", f"--workdir={workdir}", "--dry_run", "--slurm", *flags]
    said = complaints(arguments, capsys)
    assert "\nearlyprune_jax: 5 problems:\n" in said
    assert "--slurm.extra='time=4' to be key=value, or a key, with none of array, " in said
    assert "give --slurm.minutes" in said
    assert not workdir.exists()


def test_flags_of_slurm_without_slurm_are_refused(capsys, tiny_file):
    assert "Expected --slurm with --slurm.cpus." in complaints(
        [f"--config={tiny_file}", "--slurm.cpus=4"], capsys
    )


def test_workers_are_counted_on_the_cores_of_a_task(capsys, tiny_file):
    arguments = [f"--config={tiny_file}", "--dry_run", "--slurm", "--slurm.cpus=3"]
    assert "in [1, 3]" in complaints([*arguments, "--workers=4"], capsys)
    assert main.main([*arguments, "--workers=3"]) == main.main([*arguments, "--workers=auto"]) == 0
    assert "--slurm.gpus=-1 in [0, inf)" in complaints([*arguments, "--slurm.gpus=-1"], capsys)
    assert "to be 1 with --slurm.gpus" in complaints(
        [*arguments, "--workers=2", "--slurm.gpus=1"], capsys
    )


def test_without_submitit_and_slurm_both_are_asked_for_and_nothing_is_written(
    capsys, tiny_file, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "submitit", None)
    workdir = tmp_path / "run"
    said = complaints([f"--config={tiny_file}", f"--workdir={workdir}", "--slurm"], capsys)
    assert "pip install 'earlyprune-jax[slurm]'" in said
    assert "Expected sbatch, srun, scontrol, scancel, submitit" in said
    assert not workdir.exists()


def test_a_dry_run_shows_the_stages_and_needs_no_slurm(capsys, tiny_file, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    workdir = tmp_path / "run"
    flags = [
        "--slurm",
        "--slurm.num_tasks=4",
        "--slurm.cpus=2",
        "--slurm.gpus=1",
        "--slurm.memory_gb=7.5",
    ]
    assert main.main([f"--config={tiny_file}", f"--workdir={workdir}", "--dry_run", *flags]) == 0
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "Slurm: each task minutes=60, cpus=2, gpus=1, memory_gb=7.5; "
        "a stage begins when the one before has ended",
        "  trunks, tasks: 3, dense runs",
        "  pruned, tasks: 4, pruned runs",
        "  closing, tasks: 1, what killed tasks have left, tables, figures",
    ]
    assert not workdir.exists()


def test_options_reach_sbatch_under_the_names_submitit_knows():
    options = SlurmOptions(
        "gpu", 90, 4, 1, 8.0, 10, 5, ("account=me", "--exclusive", "gres=gpu:a100:1")
    )
    told = options.parameters("a-name", after="12")
    assert told.pop("slurm_additional_parameters") == {
        "requeue": True,
        "dependency": "afterany:12",
        "account": "me",
        "exclusive": True,
        "gres": "gpu:a100:1",
    }
    assert told == {
        "name": "a-name",
        "timeout_min": 90,
        "cpus_per_task": 4,
        "gpus_per_node": 1,
        "mem_gb": 8.0,
        "slurm_partition": "gpu",
        "slurm_array_parallelism": 5,
        "slurm_signal_delay_s": 120,
        "slurm_srun_args": ["--cpus-per-task=4"],
    }


# From here on with a cluster.


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    pytest.importorskip("submitit", reason="pip install 'earlyprune-jax[slurm]'")
    try:
        with cluster(tmp_path_factory.mktemp("slurm") / "cluster") as running:
            yield running
    except SlurmMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def submit(slurm: Cluster, capsys, monkeypatch) -> Callable[..., list[str]]:
    """Runs the command line, which calls sbatch with this process's environment; returns job
    ids."""
    for name in [name for name in os.environ if name.startswith(("SLURM", "SBATCH", "SRUN"))]:
        monkeypatch.delenv(name)
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm.environment[name])
    # Tasks find the package there.
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)

    def run(*arguments: str) -> list[str]:
        assert main.main(list(arguments)) == 0
        return re.findall(r"^  job (\d+): ", capsys.readouterr().out, flags=re.MULTILINE)

    return run


def wait_until(condition: Callable[[], bool], workdir: Path) -> None:
    if not becomes_true(condition, SECONDS):
        logs = (f"--- {path}\n{path.read_text()[-2000:]}" for path in workdir.glob("slurm/*/*.*"))
        texts = "\n".join(text for text in logs if ".pkl" not in text)
        raise AssertionError(f"not so within {SECONDS} s\n{texts}")


def wait_for_jobs(slurm: Cluster, workdir: Path) -> None:
    names = [f"earlyprune-{stage}" for stage in submission.STAGES]
    wait_until(lambda: not slurm.run("squeue", "-h", "-n", ",".join(names), "-o", "%i"), workdir)


def run_here(arguments: list[str]) -> None:
    """The same study in one process with one core, as a task has."""
    core = min(os.sched_getaffinity(0))
    command = ["taskset", "-c", str(core), sys.executable, "-m", "earlyprune_jax.main", *arguments]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    subprocess.run(
        command,
        check=True,
        env=os.environ | {"PYTHONPATH": path},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )


def table(workdir: Path, name: str = "results.csv") -> list[dict[str, str]]:
    with (workdir / name).open() as file:
        rows = list(csv.DictReader(file))
    return [{key: text for key, text in row.items() if "seconds" not in key} for row in rows]


def comparisons(workdir: Path) -> dict[str, dict]:
    found = {
        path.parent.name: json.loads(path.read_text())
        for path in workdir.glob("comparisons/*/result.json")
    }
    assert len(found) == 6
    return found


def kill(slurm: Cluster, array_id: str, number: str) -> None:
    """SIGKILL for the process that works on a task, which tells neither it nor Slurm."""
    is_task = f"SLURM_ARRAY_JOB_ID={array_id}\0", f"SLURM_ARRAY_TASK_ID={number}\0"
    for pid in descendants(slurm.keeper_pid):
        try:
            environment = Path(f"/proc/{pid}/environ").read_text(errors="replace")
            program = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
        except OSError:
            continue
        if all(text in environment for text in is_task) and "python" in program:
            os.kill(pid, signal.SIGKILL)
            return
    raise AssertionError(f"no process of {array_id}_{number}")


def epochs_on_record(directory: Path) -> list[int]:
    path = directory / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line)["epoch"] for line in lines]


def assert_each_epoch_is_there_once(workdir: Path, num_runs: int) -> None:
    described = sorted((*workdir.glob("trunks/*/run.json"), *workdir.glob("forks/*/run.json")))
    assert len(described) == num_runs
    for path in described:
        run = json.loads(path.read_text())
        assert epochs_on_record(path.parent) == [
            *range(run["first_epoch"] + 1, run["last_epoch"] + 1)
        ], path


def logged(workdir: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(workdir.glob("slurm/*/*_log.*")))


@pytest.mark.slurm
def test_a_study_on_slurm_gives_the_table_of_one_process_and_trains_every_epoch_once(
    slurm, submit, tiny_file, tmp_path, capsys
):
    here, there = tmp_path / "here", tmp_path / "there"
    command = [f"--config={tiny_file}", f"--workdir={there}", "--slurm", "--slurm.num_tasks=2"]
    ids = submit(*command, "--verbose")
    assert len(ids) == 3
    run_here([f"--config={tiny_file}", f"--workdir={here}"])
    wait_for_jobs(slurm, there)
    assert table(there) == table(here)
    assert comparisons(there) == comparisons(here)
    assert (there / "figures" / "accuracy_vs_fork_epoch.png").is_file()
    assert_each_epoch_is_there_once(there, num_runs=15)
    lines = Counter(match[0] for match in EPOCH_LINE.finditer(logged(there)))
    assert sum(lines.values()) == len(lines) == 3 * 4 + 6 * (3 + 1)
    sessions = json.loads((there / "env.json").read_text())["sessions"]
    assert [session["trains"] for session in sessions] == [False] + [True] * 6
    assert all(session["host"] and session["slurm_job"] for session in sessions[1:])
    assert submit(*command) == []


def task_at(workdir: Path, array: str, seed: int) -> str:
    """The task that trains a trunk: any may have taken it."""
    (log,) = [
        path
        for path in workdir.glob(f"slurm/*/{array}_*_log.out")
        if re.search(rf"^trunk seed {seed}  epoch", path.read_text(), re.MULTILINE)
    ]
    return "_".join(log.name.split("_")[:2])


@pytest.mark.slurm
def test_killed_requeued_and_warned_tasks_cost_nothing_but_time(slurm, submit, tiny_file, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    longer = [f"--config={tiny_file}", "--config.train.num_epochs=40", "--config.fork.epochs=36,38"]
    trunks, _, _ = submit(
        *longer, f"--workdir={there}", "--slurm", "--slurm.num_tasks=2", "--verbose"
    )
    disturbances = [
        lambda task: kill(slurm, *task.split("_")),
        lambda task: slurm.run("scontrol", "requeue", task),
        lambda task: slurm.run("scancel", "--signal=USR2", task),
    ]
    tasks = []
    for seed, disturb in enumerate(disturbances):

        def is_under_way(seed=seed) -> bool:
            found = list(there.glob(f"trunks/*seed-{seed}-*"))
            return bool(found) and len(epochs_on_record(found[0])) >= 3

        wait_until(is_under_way, there)
        tasks.append(task_at(there, trunks, seed))
        disturb(tasks[-1])
        assert len(epochs_on_record(locate(there, trunk(seed)))) < 40
    run_here([*longer, f"--workdir={here}"])
    wait_for_jobs(slurm, there)
    assert slurm.states(trunks)[tasks[0]] == "FAILED"
    assert f"job {tasks[2]} is requeued" in logged(there)
    assert table(there) == table(here)
    assert_each_epoch_is_there_once(there, num_runs=15)
    lines = Counter(match[0] for match in EPOCH_LINE.finditer(logged(there)))
    # What a process was at when it was stopped, and no more, is trained again.
    assert sum(lines.values()) - len(lines) <= len(disturbances)
    assert max(lines.values()) <= 2


@dataclasses.dataclass(frozen=True)
class Counting:
    """A task that takes most of a minute, whatever the machine."""

    path: Path

    def __call__(self) -> None:
        with Path(f"{self.path}.starts").open("a") as starts:
            starts.write(".")
        slurm_job.carry_out(self.work, self.standing, int, job_id(), minutes=1)

    def standing(self) -> dict[str, int]:
        count = self.path.stat().st_size if self.path.exists() else 0
        return {"it": count} if count < 55 else {}

    def work(self, max_minutes: float) -> None:
        end = time.time() + 60 * max_minutes
        while self.standing() and time.time() < end:
            time.sleep(1)
            with self.path.open("a") as file:
                file.write(".")


@pytest.mark.slurm
def test_what_takes_longer_than_the_limit_is_requeued_and_goes_on(
    slurm, submit, tmp_path, monkeypatch
):
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent)]), prepend=os.pathsep
    )
    one, other = Counting(tmp_path / "one"), Counting(tmp_path / "other")
    stages = {"first": [one], "second": [other]}
    first, second = submission.submit_arrays(stages, SlurmOptions(minutes=1), tmp_path / "logs")
    wait_until(
        lambda: not slurm.run("squeue", "-h", "-n", "earlyprune-first", "-o", "%i"), tmp_path
    )
    assert not one.standing()
    assert len(Path(f"{one.path}.starts").read_text()) >= 2
    assert slurm.states(first) == {first: "COMPLETED"}
    slurm.run("scancel", second)


@pytest.mark.slurm
def test_what_slurm_refuses_leaves_no_stage_behind(slurm, submit, tmp_path):
    stages = {name: [Counting(tmp_path / name)] for name in ("one", "two")}
    refused = SlurmOptions(partition="no-such-partition")
    said = "Expected Slurm to accept one. .*invalid partition"
    with pytest.raises(submission.NotSubmitted, match=said):
        submission.submit_arrays(stages, refused, tmp_path / "logs")
    names = "earlyprune-one,earlyprune-two"
    assert not slurm.run("squeue", "-h", "-n", names, "-o", "%i")
    assert not (tmp_path / "logs").exists()


@pytest.mark.slurm
def test_what_slurm_would_refuse_is_bad_input_and_nothing_is_written(
    slurm, submit, tiny_file, tmp_path, capsys
):
    workdir = tmp_path / "run"
    arguments = [f"--config={tiny_file}", f"--workdir={workdir}", "--slurm"]
    for flag in ("partition=none", "gpus=1", "extra=constraint=none"):
        assert "Expected Slurm to accept" in complaints([*arguments, f"--slurm.{flag}"], capsys)
    assert not workdir.exists()


@pytest.mark.slurm
def test_what_slurm_refuses_late_leaves_a_workdir_to_go_on_with(
    tiny_file, tmp_path, monkeypatch, capsys
):
    """As where a limit on the number of jobs is reached, which --test-only does not look at."""
    pytest.importorskip("submitit", reason="pip install 'earlyprune-jax[slurm]'")
    for name in submission.PROGRAMS:
        refusal = "echo sbatch: error: too many jobs >&2; exit 1"
        script = f'#!/bin/sh\ncase "$*" in *--test-only*) exit 0;; esac\n{refusal}\n'
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    workdir = tmp_path / "run"
    arguments = [f"--config={tiny_file}", f"--workdir={workdir}", "--slurm"]
    assert main.main(arguments) == 3
    said = capsys.readouterr().err
    assert "too many jobs" in said and "the same command goes on from here." in said
    assert not list((workdir / "slurm").iterdir())
    assert main.main([*arguments, "--dry_run"]) == 0
