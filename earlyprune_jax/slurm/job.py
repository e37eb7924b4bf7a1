"""Works inside a job of Slurm until shortly before its limit, and then has the job requeued.

A job is told nothing when it runs again: the workdir knows what is done. SIGTERM (cancelled,
preempted, or requeued by somebody) ends it at once; so does SIGUSR2, which announces the limit, but
then it asks to be requeued.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

WORK_SHARE = 0.8
"""No epoch begins later than at this part of the limit."""

LEAST_SHARE = 0.5
"""A job that has had this part of its limit must have got somewhere to be run again."""

INTERRUPTED = 130
HEEDED = (signal.SIGUSR2, signal.SIGTERM)

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
    received: list[int] = []
    started, before = time.time(), epochs_on_record()
    end = float(os.environ.get("SLURM_JOB_END_TIME", started + 60 * minutes))
    limit = end - started
    try:
        _leave_on_signals(received)
        work(WORK_SHARE * limit / 60)
    except KeyboardInterrupt:
        if signal.SIGUSR2 not in received:
            _exit(INTERRUPTED)
    _heed_no_signal()
    after, was_told, elapsed = epochs_on_record(), bool(received), time.time() - started
    if not after or (is_shared and not was_told and elapsed < WORK_SHARE * limit):
        return
    had_its_share = elapsed > LEAST_SHARE * limit
    if not has_progressed(before, after) and (had_its_share or not was_told):
        raise NoProgressError(_why_not(had_its_share, minutes))
    print(f"Time is up, unfinished members: {len(after)}; job {job_id} is requeued.", flush=True)
    subprocess.run(["scontrol", "requeue", job_id], check=True, timeout=60)
    _exit(0)


def has_progressed(before: Epochs, after: Epochs) -> bool:
    """Whether a member has ended, or has more epochs.

    Example:
        >>> has_progressed({"a": 1, "b": 0}, {"b": 0}), has_progressed({"b": 0}, {"b": 2})
        (True, True)
        >>> has_progressed({"b": 2}, {"b": 2})
        False
    """
    return any(member not in after or after[member] > count for member, count in before.items())


def _why_not(had_its_share: bool, minutes: int) -> str:
    if had_its_share:
        remedy = "raise --slurm.minutes, so that a task has time for several, and submit again"
        return f"No epoch was finished within {minutes} minutes: {remedy}."
    return (
        "No epoch was finished, and nobody is left to train one: see above; mend it, and submit "
        "again."
    )


def _leave_on_signals(received: list[int]) -> None:
    """SIGUSR2 and SIGTERM raise KeyboardInterrupt, once."""

    def leave(number: int, frame: FrameType | None) -> None:
        received.append(number)
        _heed_no_signal()
        raise KeyboardInterrupt

    # submitit's own handlers would requeue from inside the training, and ignore SIGTERM.
    for each in HEEDED:
        signal.signal(each, leave)


def _heed_no_signal() -> None:
    for each in HEEDED:
        signal.signal(each, signal.SIG_IGN)


def _exit(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of a checkpoint that was being written would hold a normal exit for minutes.
    os._exit(code)
