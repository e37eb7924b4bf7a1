"""What a job of Slurm does at its limit and on signals: real processes; scontrol only takes
notes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import LAST_RESORT_SECONDS, wait_until

from earlyprune_jax.slurm.job import MOST_FRUITLESS

ROOT = Path(__file__).parent.parent.parent

PROGRAM = """
import os, sys, time
from pathlib import Path
from earlyprune_jax.slurm import job as slurm_job

done, num_epochs, most = Path(sys.argv[1]), int(sys.argv[2]), 1_000_000
# From here on: on a busy machine the start alone may take longer than all of a short job.
os.environ["SLURM_JOB_END_TIME"] = str(time.time() + float(sys.argv[3]))

def standing():
    count = len(done.read_text()) if done.exists() else 0
    return {"a member": count} if count < num_epochs else {}

def work(max_minutes):
    end = time.time() + 60 * max_minutes * (num_epochs <= most)
    Path(f"{done}.begun").touch()
    while standing() and time.time() < end:
        time.sleep(0.05)
        if num_epochs < most:
            done.open("a").write(".")

def count_fruitless(has_progressed):
    starts = Path(f"{done}.starts")
    starts.open("a").write("+" if has_progressed else "-")
    return len(starts.read_text().rpartition("+")[2])

slurm_job.carry_out(
    work, standing, count_fruitless, "7_3", 60, is_shared="is_shared" in sys.argv
)
print("returned")
"""


class Job:
    """One run of the program as a job that ends in so many seconds."""

    def __init__(
        self, tmp_path: Path, num_epochs: int, seconds: float, *flags: str, scontrol: str = ""
    ):
        program, self._asked = tmp_path / "scontrol", tmp_path / "asked"
        program.write_text(f'#!/bin/sh\necho "$@" >> {self._asked}\n{scontrol}\n')
        program.chmod(0o755)
        self.done, self._begun = tmp_path / "done", tmp_path / "done.begun"
        self._begun.unlink(missing_ok=True)
        environment = os.environ | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, self.done, str(num_epochs), str(seconds), *flags],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def signal(self, number: signal.Signals) -> None:
        wait_until(self._begun.exists, self.process)
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str, str]:
        """Exit code, standard output and error, and what was asked of scontrol."""
        printed, errors = self.process.communicate(timeout=LAST_RESORT_SECONDS)
        asked = self._asked.read_text() if self._asked.exists() else ""
        return self.process.returncode, printed, errors, asked


def test_a_job_that_has_done_all_returns_and_asks_for_nothing(tmp_path):
    code, printed, errors, asked = Job(tmp_path, num_epochs=3, seconds=6000).end()
    assert (code, printed, errors, asked) == (0, "returned\n", "", "")


def test_a_job_at_its_limit_is_requeued_by_its_number(tmp_path):
    code, printed, _, asked = Job(tmp_path, num_epochs=999_999, seconds=3).end()
    assert (code, asked) == (0, "requeue 7_3\n")
    assert printed == "Time is up, unfinished members: 1; job 7_3 is requeued.\n"


def test_a_job_that_gets_nowhere_within_its_limit_fails_and_is_not_requeued(tmp_path):
    code, _, errors, asked = Job(tmp_path, num_epochs=1_000_000, seconds=2).end()
    assert (code, asked) == (1, "")
    assert "raise --slurm.minutes" in errors


def test_a_job_whose_workers_have_left_with_nothing_done_fails_at_once_and_is_not_requeued(
    tmp_path,
):
    code, _, errors, asked = Job(tmp_path, num_epochs=1_000_001, seconds=6000).end()
    assert (code, asked) == (1, "")
    assert "nobody is left to train one" in errors


def test_a_job_that_shares_its_members_leaves_the_rest_to_the_others(tmp_path):
    code, printed, errors, asked = Job(tmp_path, 1_000_001, 6000, "is_shared").end()
    assert (code, printed, errors, asked) == (0, "returned\n", "", "")


def test_a_job_warned_before_its_first_epoch_was_preempted_and_is_requeued(tmp_path):
    job = Job(tmp_path, num_epochs=1_000_000, seconds=6000)
    job.signal(signal.SIGUSR2)
    code, _, _, asked = job.end()
    assert (code, asked) == (0, "requeue 7_3\n")


def test_a_job_warned_again_and_again_before_its_first_epoch_gives_up_in_a_sentence(tmp_path):
    for start in range(1, MOST_FRUITLESS + 1):
        job = Job(tmp_path, num_epochs=1_000_000, seconds=6000)
        job.signal(signal.SIGUSR2)
        code, _, errors, asked = job.end()
        assert code == (start == MOST_FRUITLESS)
    assert asked.count("requeue") == MOST_FRUITLESS - 1
    assert errors.startswith(
        "earlyprune_jax: No epoch was finished (starts of job 7_3 in a row: 3)"
    )
    assert "Traceback" not in errors


def test_what_slurm_says_to_a_requeue_that_it_refuses_is_a_sentence(tmp_path):
    refusal = "echo 'Requested operation is presently disabled' >&2; exit 1"
    job = Job(tmp_path, num_epochs=1_000_000, seconds=6000, scontrol=refusal)
    job.signal(signal.SIGUSR2)
    code, _, errors, _ = job.end()
    assert code == 1 and "Traceback" not in errors
    assert "Job 7_3 cannot be requeued: Requested operation is presently disabled." in errors


@pytest.mark.parametrize("num_epochs", [999_999, 1_000_000])
def test_a_job_that_is_told_to_end_does_so_and_is_not_requeued(tmp_path, num_epochs):
    job = Job(tmp_path, num_epochs, seconds=6000)
    job.signal(signal.SIGTERM)
    code, _, _, asked = job.end()
    assert (code, asked) == (143, "")
