"""Inside a job of Slurm: it works until shortly before its limit, and then asks to be run again.

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

Standing = Mapping[Any, int]
"""Members that have not ended -> epochs on record."""


class NoProgressError(RuntimeError):
    """A job has left without finishing an epoch, and would do so again."""


def carry_out(
    work: Callable[[float], None], standing: Callable[[], Standing], minutes: int
) -> None:
    """Works, and has the job run again if that does not suffice.

    Args:
        work: told how many minutes from now it may still begin epochs; ends earlier if it has done
            all.
        standing: how far the job's members are.
        minutes: the job's limit, where Slurm does not say when it will end the job.

    Raises:
        NoProgressError: no epoch was finished, although the job had half of its limit, or was not
            told to leave.
    """
    told: list[int] = []
    started, before = time.time(), standing()
    end = float(os.environ.get("SLURM_JOB_END_TIME", started + 60 * minutes))
    try:
        _leave_on_signals(told)
        work(WORK_SHARE * (end - started) / 60)
    except KeyboardInterrupt:
        if signal.SIGUSR2 not in told:
            _exit(INTERRUPTED)
    _heed_no_signal()
    after = standing()
    if not after:
        return
    was_short_of_time = time.time() - started > LEAST_SHARE * (end - started)
    if not got_on(before, after) and (was_short_of_time or signal.SIGUSR2 not in told):
        raise NoProgressError(_why_not(was_short_of_time, minutes))
    print(f"Time is up, unfinished members: {len(after)}; job {job_id()} is requeued.", flush=True)
    subprocess.run(["scontrol", "requeue", job_id()], check=True, timeout=60)
    _exit(0)


def got_on(before: Standing, after: Standing) -> bool:
    """Whether a member has ended, or has more epochs.

    Example:
        >>> got_on({"a": 1, "b": 0}, {"b": 0}), got_on({"b": 0}, {"b": 2}), got_on({"b": 2}, {"b": 2})
        (True, True, False)
    """
    return any(member not in after or after[member] > count for member, count in before.items())


def _why_not(was_short_of_time: bool, minutes: int) -> str:
    if was_short_of_time:
        remedy = "raise --slurm.minutes, so that a task has time for several, and submit again"
        return f"No epoch was finished within {minutes} minutes: {remedy}."
    return "No epoch was finished, and nobody is left to train one: see above; mend it, and submit again."


def job_id() -> str:
    """This job's id as scontrol knows it, empty outside of Slurm.

    Of an array's task it is `ARRAY_TASK`: the plain id of the last task is that of the whole array.
    """
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return (
        f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        if array
        else os.environ.get("SLURM_JOB_ID", "")
    )


def _leave_on_signals(told: list[int]) -> None:
    """SIGUSR2 and SIGTERM raise KeyboardInterrupt, once."""

    def leave(number: int, frame: FrameType | None) -> None:
        told.append(number)
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
