"""Works inside a job of Slurm until shortly before its limit, and then has the job requeued.

A job is told nothing when it runs again: the workdir knows what is done. SIGTERM (cancelled,
preempted, or requeued by somebody) ends it at once; so does SIGUSR2, which announces the limit, but
then it asks to be requeued, unless all has been trained and only tables are left to be written.
"""

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from earlyprune_jax import leaving
from earlyprune_jax.storage import StorageError
from earlyprune_jax.validate import InvalidInput

WORK_SHARE = 0.8
"""No epoch begins later than at this part of the limit."""

LEAST_SHARE = 0.5
"""A job that has had this part of its limit must have got somewhere to be run again."""

MOST_FRUITLESS = 3
"""A job that was told to leave so often in a row before it had finished an epoch is given up.

Slurm may send its signal a minute early, and at once where the limit is a minute.
"""

Epochs = Mapping[Any, int]
"""Members that have not ended -> epochs on record."""


class JobError(RuntimeError):
    """A job has to give up; the message says why, and what to do."""


class NoProgressError(JobError):
    """A job has left without finishing an epoch, and would do so again."""


def carry_out(
    work: Callable[[float], None],
    epochs_on_record: Callable[[], Epochs],
    count_fruitless: Callable[[bool], int],
    job_id: str,
    minutes: int,
    *,
    is_shared: bool = False,
) -> None:
    """Works, and has the job run again if its time did not suffice.

    Args:
        work: takes the minutes during which it may begin epochs; ends earlier if it has done all.
        epochs_on_record: asks how far the members are that the job may train.
        count_fruitless: is told whether this start of the job has finished an epoch; remembers from
            start to start how many in a row have not, and returns that.
        job_id: this job's, as scontrol knows it.
        minutes: the job's limit, where Slurm does not say when it will end the job.
        is_shared: whether other jobs may be at what is left when `work` ends early.

    Raises:
        NoProgressError: no epoch was finished, although the job had half of its limit, was not told
            to leave, or was told so `MOST_FRUITLESS` times in a row.
        JobError: Slurm does not run it again.
    """
    started, before = time.time(), epochs_on_record()
    end = float(os.environ.get("SLURM_JOB_END_TIME", started + 60 * minutes))
    limit, is_deciding = end - started, threading.Lock()

    def requeue_if_left(*, was_told: bool) -> None:
        after, elapsed = epochs_on_record(), time.time() - started
        if not after or (is_shared and not was_told and elapsed < WORK_SHARE * limit):
            return
        fruitless = count_fruitless(has_progressed := _has_progressed(before, after))
        # One that was told to leave early may have been preempted.
        is_spent = not was_told or elapsed > LEAST_SHARE * limit or fruitless >= MOST_FRUITLESS
        if is_spent and not has_progressed:
            leaving.take_leave()
            raise NoProgressError(
                f"No epoch was finished (starts of job {job_id} in a row: {fruitless}), and nobody "
                f"is left to train one, or {minutes} minutes are too short: raise --slurm.minutes, "
                "so that a task has time for several, or mend what stands above, and submit again."
            )
        told = f"Time is up, unfinished members: {len(after)}; job {job_id} is requeued."
        print(told, flush=True)
        leaving.take_leave()
        _requeue(job_id)
        leaving.leave(leaving.DONE)

    def heed_limit(number: int) -> None:
        try:
            with is_deciding:
                requeue_if_left(was_told=True)
        except Exception as error:  # what fails in the thread of signals must end the job
            give_up(error)

    # submitit's own handlers would requeue from inside the training, and ignore SIGTERM.
    leaving.on(leaving.heed, signal.SIGTERM)
    leaving.on(heed_limit, signal.SIGUSR2)
    work(WORK_SHARE * limit / 60)
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with is_deciding:
        requeue_if_left(was_told=False)


def give_up(error: Exception) -> NoReturn:
    """Says why the job cannot go on, and ends it: in a sentence where what to do is known."""
    codes = {InvalidInput: leaving.BAD_INPUT, StorageError: leaving.STORAGE}
    code = next((codes[kind] for kind in codes if isinstance(error, kind)), leaving.FAILED)
    if isinstance(error, JobError) or code != leaving.FAILED:
        print(f"earlyprune_jax: {error}", file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)
    leaving.leave(code)


def _requeue(job_id: str) -> None:
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60}
    try:
        subprocess.run(["scontrol", "requeue", job_id], check=True, **options)
    except (OSError, subprocess.SubprocessError) as error:
        said = " ".join((getattr(error, "stderr", "") or str(error)).split())
        remedy = "The closing task or the next submission goes on from here."
        raise JobError(f"Job {job_id} cannot be requeued: {said}. {remedy}") from error


def _has_progressed(before: Epochs, after: Epochs) -> bool:
    return any(member not in after or after[member] > count for member, count in before.items())
