"""Works inside a job of Slurm until shortly before its limit, and then has the job requeued.

A job is told nothing when it runs again: the workdir knows what is done. SIGTERM (cancelled,
preempted, or requeued by somebody) ends it at once; so does SIGUSR2, which announces the limit, but
then it asks to be requeued, unless all has been trained and only tables are left to be written.
"""

import os
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from earlyprune_jax import leaving

WORK_SHARE = 0.8
"""No epoch begins later than at this part of the limit."""

LEAST_SHARE = 0.5
"""A job that has had this part of its limit must have got somewhere to be run again."""

Epochs = Mapping[Any, int]
"""Members that have not ended -> epochs on record."""


class NoProgressError(RuntimeError):
    """A job has left without finishing an epoch, and would do so again."""


def carry_out(
    work: Callable[[float], None],
    epochs_on_record: Callable[[], Epochs],
    job_id: str,
    minutes: int,
    *,
    is_shared: bool = False,
) -> None:
    """Works, and has the job run again if its time did not suffice.

    Args:
        work: takes the minutes during which it may begin epochs; ends earlier if it has done all.
        epochs_on_record: asks how far the members are that the job may train.
        job_id: this job's, as scontrol knows it.
        minutes: the job's limit, where Slurm does not say when it will end the job.
        is_shared: whether other jobs may be at what is left when `work` ends early.

    Raises:
        NoProgressError: no epoch was finished, although the job had half of its limit, or was not
            told to leave.
    """
    started, before = time.time(), epochs_on_record()
    end = float(os.environ.get("SLURM_JOB_END_TIME", started + 60 * minutes))
    limit, is_deciding = end - started, threading.Lock()

    def requeue_if_left(*, was_told: bool) -> None:
        after, elapsed = epochs_on_record(), time.time() - started
        if not after or (is_shared and not was_told and elapsed < WORK_SHARE * limit):
            return
        # One that was told to leave early may have been preempted.
        if not _has_progressed(before, after) and (elapsed > LEAST_SHARE * limit or not was_told):
            raise NoProgressError(
                f"No epoch was finished, and nobody is left to train one, or {minutes} minutes are "
                "too short: raise --slurm.minutes, so that a task has time for several, or mend "
                "what stands above, and submit again."
            )
        told = f"Time is up, unfinished members: {len(after)}; job {job_id} is requeued."
        print(told, flush=True)
        subprocess.run(["scontrol", "requeue", job_id], check=True, timeout=60)
        leaving.leave(leaving.DONE)

    def heed_limit(number: int) -> None:
        try:
            with is_deciding:
                requeue_if_left(was_told=True)
        except Exception:  # what fails in the thread of signals must end the job
            traceback.print_exc()
            leaving.leave(leaving.FAILED)

    # submitit's own handlers would requeue from inside the training, and ignore SIGTERM.
    leaving.on(leaving.heed, signal.SIGTERM)
    leaving.on(heed_limit, signal.SIGUSR2)
    work(WORK_SHARE * limit / 60)
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with is_deciding:
        requeue_if_left(was_told=False)


def _has_progressed(before: Epochs, after: Epochs) -> bool:
    return any(member not in after or after[member] > count for member, count in before.items())
