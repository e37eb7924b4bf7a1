"""Slurm for real: what the grid's arrays rely on, on one machine.

On a bare Debian machine with 2 cores, as root (what follows apt-get: as any user), in half a
minute:

    apt-get install -y slurmctld slurmd slurm-client munge && \
        pip install -e '.[slurm,test]' && pytest -m slurm tests/slurm
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_cluster import Cluster, SlurmMissing, cluster
from slurm_keeper import becomes_true, descendants

pytestmark = pytest.mark.slurm
HERE = Path(__file__).parent
SECONDS = 300


def report(letter: str, started: Path) -> dict:
    """What a task sees; its first run waits to be interrupted."""
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    with started.open("a") as lines:
        lines.write(f"{os.getpid()}\n")
    if letter == "b" and restarts == 0:
        time.sleep(10 * SECONDS)
    return {
        "letter": letter,
        "restarts": restarts,
        "task": os.environ["SLURM_ARRAY_TASK_ID"],
        "num_cpus": len(os.sched_getaffinity(0)),
        "given": os.environ["GIVEN_BY_THE_TEST"],
    }


def wait_until(condition: Callable[[], bool]) -> None:
    assert becomes_true(condition, SECONDS), f"not so within {SECONDS} s"


def mention(directory: Path) -> set[int]:
    """The processes whose command or environment names the directory, as every one of a cluster
    does."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(directory) in text:
            found.add(int(process.name))
    return found


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


@pytest.fixture
def new_directory(tmp_path_factory) -> Callable[[], Path]:
    """Paths too short to crowd the sockets in them, as the name of a test in a path would."""
    return lambda: tmp_path_factory.mktemp("slurm") / "cluster"


@pytest.fixture
def slurm(new_directory) -> Iterator[Cluster]:
    try:
        with cluster(new_directory()) as running:
            yield running
    except SlurmMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def executor(slurm, tmp_path, monkeypatch):
    """Of arrays whose tasks have one CPU each; submitit calls sbatch with this process's
    environment."""
    submitit = pytest.importorskip("submitit", reason="pip install 'earlyprune-jax[slurm]'")
    for name in [name for name in os.environ if name.startswith(("SLURM", "SBATCH", "SRUN"))]:
        monkeypatch.delenv(name)
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm.environment[name])
    monkeypatch.setenv("GIVEN_BY_THE_TEST", "yes")
    # Tasks find this module's functions by its name.
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
    made = submitit.AutoExecutor(folder=tmp_path / "log", cluster="slurm")
    made.update_parameters(timeout_min=30, cpus_per_task=1, slurm_array_parallelism=2)
    return made


def test_an_array_runs_in_single_cpus_and_a_requeued_task_runs_again_and_counts_once(
    slurm, executor, tmp_path
):
    paths = [tmp_path / f"{letter}.started" for letter in "abc"]
    jobs = executor.map_array(report, "abc", paths)
    array_id = jobs[0].job_id.partition("_")[0]
    executor.update_parameters(slurm_additional_parameters={"dependency": f"afterany:{array_id}"})
    after = executor.map_array(report, "de", [tmp_path / "d.started", tmp_path / "e.started"])
    wait_until(lambda: paths[1].exists() and paths[2].exists())
    assert not (tmp_path / "d.started").exists()
    slurm.run("scontrol", "requeue", jobs[1].job_id)
    wait_until(lambda: all(job.paths.result_pickle.exists() for job in (*jobs, *after)))
    expected = [
        {"letter": letter, "restarts": restarts, "task": task, "num_cpus": 1, "given": "yes"}
        for letter, restarts, task in zip("abcde", (0, 1, 0, 0, 0), "01201", strict=True)
    ]
    assert [job.result() for job in (*jobs, *after)] == expected
    assert [len(path.read_text().split()) for path in paths] == [1, 2, 1]
    wait_until(lambda: set(slurm.states(array_id).values()) == {"COMPLETED"})
    assert len(slurm.states(array_id)) == 3


def test_a_killed_task_ends_as_failed_without_a_result_and_runs_again_when_requeued(
    slurm, executor, tmp_path
):
    started = tmp_path / "b.started"
    jobs = executor.map_array(report, "ab", [tmp_path / "a.started", started])
    wait_until(lambda: started.exists() and started.read_text().endswith("\n"))
    os.kill(int(started.read_text()), signal.SIGKILL)
    wait_until(lambda: slurm.states(jobs[1].job_id)[jobs[1].job_id] == "FAILED")
    assert not jobs[1].paths.result_pickle.exists()
    slurm.run("scontrol", "requeue", jobs[1].job_id)
    wait_until(jobs[1].paths.result_pickle.exists)
    assert jobs[1].result()["restarts"] == 1


def test_a_failing_test_leaves_no_process_of_a_cluster_with_a_running_task(new_directory, tmp_path):
    directory, started = new_directory(), tmp_path / "started"
    processes: set[int] = set()
    try:
        with pytest.raises(ZeroDivisionError), cluster(directory) as running:
            command = f"touch {started}; sleep 600"
            running.run("sbatch", "--output=/dev/null", "--wrap", command)
            wait_until(started.exists)
            processes = descendants(running.keeper_pid) | {running.keeper_pid}
            assert len(mention(directory)) >= 4
            raise ZeroDivisionError
    except SlurmMissing as missing:
        pytest.skip(str(missing))
    assert len(processes) >= 7  # keeper, munged, slurmctld, slurmd, step daemon, shell, sleep
    assert not alive(processes)
    assert not mention(directory)


def test_a_killed_test_process_takes_its_cluster_with_it(slurm, new_directory, tmp_path):
    """`slurm` runs beside it the whole time: two clusters do not disturb each other."""
    directory, started = new_directory(), tmp_path / "started"
    program = (
        "import pathlib, slurm_cluster, time\n"
        f"with slurm_cluster.cluster(pathlib.Path({str(directory)!r})) as running:\n"
        f"    running.run('sbatch', '-o', '/dev/null', '--wrap', 'touch {started}; sleep 600')\n"
        "    time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", program], cwd=HERE)
    wait_until(started.exists)
    processes = descendants(holder.pid)
    assert len(processes) >= 7
    holder.kill()
    holder.wait()
    wait_until(lambda: not alive(processes))
    assert not mention(directory)
    assert slurm.run("sinfo", "-h", "-o", "%T") == "idle\n"


def test_a_directory_in_which_sockets_would_not_fit_is_refused_with_the_remedy(tmp_path):
    with (
        pytest.raises(
            ValueError, match=r"at most 70 characters. Give pytest a shorter --basetemp."
        ),
        cluster(tmp_path / ("d" * 70)),
    ):
        pass


def test_missing_programs_are_named_with_the_packages_that_have_them(tmp_path, monkeypatch):
    monkeypatch.setattr("slurm_cluster.PROGRAMS", ("sh", "a-program-of-slurm"))
    with (
        pytest.raises(
            SlurmMissing,
            match=(
                "a-program-of-slurm. On Debian: apt-get install slurmctld slurmd slurm-client munge"
            ),
        ),
        cluster(tmp_path / "slurm"),
    ):
        pass
