"""What each task of a study asks Slurm for: the flags `--slurm.KEY=VALUE`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from earlyprune_jax import config
from earlyprune_jax.validate import expected, unknown_choice, within

RESERVED = (
    *("array", "cpus-per-task", "dependency", "error", "job-name", "no-requeue", "nodes"),
    *("ntasks", "output", "requeue", "signal", "time"),
)
"""Parameters of sbatch that are not to be given raw."""

LEAST = {"minutes": 1, "cpus": 1, "gpus": 0, "memory_gb": 0, "num_tasks": 1, "max_parallel": 1}
"""Option -> the smallest value that makes sense."""


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
            ['Expected --slurm.cpus=0 in [1, inf).']
        """
        problems = [
            expected(f"--slurm.{name}", getattr(self, name), allowed)
            for name, low in LEAST.items()
            if (allowed := within(low)(getattr(self, name)))
        ]
        for text in self.extra:
            key = text.partition("=")[0].lstrip("-").replace("_", "-")
            if not key or key in RESERVED:
                allowed = f"to be key=value, or a key, with none of {', '.join(RESERVED)}"
                remedy = "These are set here: give --slurm.minutes, cpus, num_tasks, or --workers."
                problems.append(expected("--slurm.extra", text, allowed, remedy))
        return problems

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
            # How long before its limit a task is told to leave.
            "slurm_signal_delay_s": max(10, min(120, 6 * self.minutes)),
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

    def flags(self, num_tasks: int) -> list[str]:
        """Returns what sbatch itself is told of an array, as far as it may be refused.

        Example:
            >>> SlurmOptions("cpu", memory_gb=1.5, extra=("qos=long",)).flags(4)[2:]
            ['--cpus-per-task=1', '--partition=cpu', '--mem=1536M', '--qos=long']
        """
        asked = {
            "array": f"0-{num_tasks - 1}%{self.max_parallel}",
            "time": self.minutes,
            "cpus-per-task": self.cpus,
            "partition": self.partition,
            "gpus-per-node": self.gpus,
            "mem": self.memory_gb and f"{1024 * self.memory_gb:.0f}M",
        }
        given = (f"--{name}={value}" for name, value in asked.items() if value)
        return [*given, *(f"--{text.lstrip('-')}" for text in self.extra)]


def parse(given: Sequence[tuple[str, str]]) -> tuple[SlurmOptions | None, list[str]]:
    """Reads `--slurm.KEY=VALUE` flags; `extra` may be given more than once.

    Returns:
        The options, or what is wrong with the flags.

    Example:
        >>> given = [("minutes", "90"), ("extra", "qos=long"), ("extra", "exclusive")]
        >>> options, problems = parse(given)
        >>> options.minutes, options.extra, problems
        (90, ('qos=long', 'exclusive'), [])
        >>> parse([("minuts", "90")])  # doctest: +ELLIPSIS
        (None, ["Expected --slurm.KEY='minuts' to be one of ... Did you mean 'minutes'?"])
    """
    fields: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(SlurmOptions)}
    values: dict[str, Any] = {}
    problems = []
    for name, text in given:
        if name not in fields:
            problems.append(unknown_choice("--slurm.KEY", name, tuple(fields)))
        elif name == "extra":
            values[name] = (*values.get(name, ()), text)
        else:
            try:
                values[name] = config.parse(text, fields[name])
            except (ValueError, SyntaxError):
                allowed = f"to be of type {fields[name].__name__}"
                problems.append(expected(f"--slurm.{name}", text, allowed))
    return (None if problems else SlurmOptions(**values)), problems
