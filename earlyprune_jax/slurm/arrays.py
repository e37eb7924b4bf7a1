"""Submits job arrays to Slurm, one after another, through submitit.

Nothing here waits for a job or asks how it has ended: clusters without accounting would not tell.
What has been done stands in the workdir.
"""

import dataclasses
import getpass
import importlib.util
import math
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax.validate import InvalidInput, expected, unexpected

PROGRAMS = ("sbatch", "srun", "scontrol", "squeue", "scancel")

_REQUEUED = "Tasks are requeued at their limit."
_ONE_PROCESS = "A task is one process on one node; --workers=N makes it several."

RESERVED = {
    "array": "Give --slurm.num_tasks and --slurm.max_parallel.",
    "cpus-per-task": "Give --slurm.cpus.",
    "dependency": "Stages follow one another.",
    "error": "Logs are in the workdir.",
    "job-name": "It tells the jobs of one workdir from others.",
    "no-requeue": _REQUEUED,
    "nodes": _ONE_PROCESS,
    "ntasks": _ONE_PROCESS,
    "output": "Logs are in the workdir.",
    "requeue": _REQUEUED,
    "signal": "Tasks are told some time before their limit.",
    "time": "Give --slurm.minutes.",
}
"""Parameters of sbatch that are not to be given raw, and why."""


@dataclasses.dataclass(frozen=True)
class SlurmOptions:
    """What each task asks the cluster for, and how many there are.

    Attributes:
        partition: where; empty = the cluster's default.
        minutes: limit of a task. A study may take longer: at its limit a task is requeued, and goes
            on.
        cpus: cores of a task.
        gpus: accelerators of a task.
        memory_gb: memory of a task; 0 = the cluster's default.
        num_tasks: tasks that train pruned runs, at most.
        max_parallel: tasks of a stage at the same time, at most.
        extra: further parameters of sbatch, as `key=value` or `key`.
    """

    partition: str = ""
    minutes: int = 60
    cpus: int = 1
    gpus: int = 0
    memory_gb: float = 0.0
    num_tasks: int = 32
    max_parallel: int = 256
    extra: tuple[str, ...] = ()

    def check(self) -> list[str]:
        """Lists values that make no sense.

        Example:
            >>> SlurmOptions(cpus=0).check()
            ['Expected --slurm.cpus=0 to be at least 1.']
        """
        least = dict.fromkeys(("minutes", "cpus", "num_tasks", "max_parallel"), 1)
        problems = [
            expected(f"--slurm.{name}", getattr(self, name), f"to be at least {low}")
            for name, low in (least | {"gpus": 0, "memory_gb": 0}).items()
            if not getattr(self, name) >= low
        ]
        if self.memory_gb == math.inf:
            remedy = "0 = the default."
            problems.append(expected("--slurm.memory_gb", self.memory_gb, "to be finite", remedy))
        for text in self.extra:
            key = text.partition("=")[0].lstrip("-").replace("_", "-")
            if not key:
                problems.append(expected("--slurm.extra", text, "to be key=value, or a key"))
            elif key in RESERVED:
                allowed = "to leave that parameter alone"
                problems.append(expected("--slurm.extra", text, allowed, RESERVED[key]))
        return problems

    def grace_seconds(self) -> int:
        """Returns how long before its limit a task is told to leave."""
        return max(10, min(120, 6 * self.minutes))

    def parameters(self, name: str, after: str | None) -> dict[str, Any]:
        """Returns what submitit is told of a stage's jobs.

        Args:
            name: of the jobs.
            after: the id of the job or array that has to end before; None = none.
        """
        raw: dict[str, Any] = {"requeue": True}
        if after:
            raw["dependency"] = f"afterany:{after}"
        for text in self.extra:
            key, equals, value = text.lstrip("-").partition("=")
            raw[key] = value if equals else True
        parameters: dict[str, Any] = {
            "name": name,
            "timeout_min": self.minutes,
            "cpus_per_task": self.cpus,
            "slurm_array_parallelism": self.max_parallel,
            "slurm_signal_delay_s": self.grace_seconds(),
            "slurm_additional_parameters": raw,
            # Since Slurm 22.05 steps do not take this over from their job.
            "slurm_srun_args": [f"--cpus-per-task={self.cpus}"],
        }
        optional = {
            "slurm_partition": self.partition,
            "gpus_per_node": self.gpus,
            "mem_gb": self.memory_gb,
        }
        return parameters | {key: value for key, value in optional.items() if value}


def missing() -> list[str]:
    """Lists what submitting needs and is not installed here."""
    problems = []
    if importlib.util.find_spec("submitit") is None:
        problems.append("Expected submitit for --slurm. Run pip install 'earlyprune-jax[slurm]'.")
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        remedy = "Run this on a login node of the cluster, or leave --slurm out."
        problems.append(f"Expected {', '.join(absent)} on the PATH for --slurm. {remedy}")
    return problems


def active(names: Sequence[str]) -> list[str]:
    """Lists the ids of this user's jobs of these names that wait or run.

    Raises:
        InvalidInput: Slurm does not answer.
    """
    command = ["squeue", "-h", "-u", getpass.getuser(), "-n", ",".join(names), "-o", "%F"]
    try:
        answer = subprocess.run(command, check=True, text=True, capture_output=True, timeout=60)
    except (subprocess.SubprocessError, OSError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip()
        raise unexpected("squeue", said, "to list jobs", "Is this a login node?") from error
    return sorted(set(answer.stdout.split()), key=int)


Stage = tuple[str, Sequence[Callable[[], None]]]
"""Name of the jobs, and what each does."""


def submit(stages: Sequence[Stage], options: SlurmOptions, folder: Path) -> list[str]:
    """Submits stages as job arrays, each to begin when the one before has ended, well or not.

    All or nothing: where Slurm refuses a stage, those before it are cancelled.

    Args:
        stages: none of them empty; what a job does must be picklable by name.
        options: what each job asks for.
        folder: for logs and what submitit keeps; a new one, for job ids may recur.

    Returns:
        The ids of the arrays.

    Raises:
        InvalidInput: Slurm refuses; its words are in the message.
    """
    # An extra: whoever does not submit need not have it.
    import submitit  # pyright: ignore[reportMissingImports]
    from submitit.core.utils import FailedJobError  # pyright: ignore[reportMissingImports]

    executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
    ids: list[str] = []
    for name, tasks in stages:
        executor.update_parameters(**options.parameters(name, ids[-1] if ids else None))
        try:
            jobs = executor.submit_array(list(tasks))
        except FailedJobError as error:
            if ids:
                subprocess.run(["scancel", *ids], check=False)
            said = " ".join(str(error).split())
            raise InvalidInput([f"Expected Slurm to accept {name}. {said}"]) from error
        # An array of one is a plain job: 5, not 5_0.
        ids.append(jobs[0].job_id.partition("_")[0])
    return ids
