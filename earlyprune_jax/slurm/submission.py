"""Hands a study to Slurm through submitit: three job arrays, each begun when the last has ended.

    trunks   one task per trunk
    pruned   at most --slurm.num_tasks tasks, which take what is free until nothing is
    closing  one task that trains whatever killed tasks have left, writes the tables and the figures

Tasks know of one another only through the workdir, so any may be killed, requeued or submitted
again. Nothing here waits for a job or asks how it has ended: clusters without accounting would not
tell, and what has been done stands in the workdir.
"""

import dataclasses
import functools
import importlib.util
import math
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import config, experiment, storage, workspace
from earlyprune_jax.grid import plan
from earlyprune_jax.grid.members import Comparison, Member, Trunk
from earlyprune_jax.grid.options import Options, keep_freed_memory
from earlyprune_jax.grid.scheduler import Scope, pending_members
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import SILENT, Trainer
from earlyprune_jax.slurm import job
from earlyprune_jax.spec import use_code
from earlyprune_jax.validate import InvalidInput, expected, refuse, unknown_choice, within
from earlyprune_jax.workspace import job_id
from earlyprune_jax.xla_flags import avoid_miscompilation

CLOSING = "closing"
STAGES: dict[str, tuple[Scope, str]] = {
    "trunks": (Scope(trunks_only=True, waits=False), "dense runs"),
    "pruned": (Scope(waits=False), "pruned runs"),
    CLOSING: (Scope(), "what killed tasks have left, tables, figures"),
}
"""Stage -> what its tasks take of the study, and what they do in words."""

PROGRAMS = ("sbatch", "srun", "scontrol", "scancel")

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


def require(
    study: Study, options: Options, slurm_options: SlurmOptions, problems: Sequence[str] = ()
) -> None:
    """Checks everything that speaks against submitting.

    Args:
        study: what would be submitted.
        options: workers and batches of every task.
        slurm_options: what every task asks for.
        problems: that are known already; they come first.

    Raises:
        InvalidInput: anything does.
    """
    cores = max(1, slurm_options.cpus)
    problems = [*problems, *slurm_options.check(), *options.check(num_cores=cores)]
    if options.num_workers > 1 and slurm_options.gpus:
        remedy = "One process uses all accelerators of a task: leave it out."
        allowed = "to be 1 with --slurm.gpus"
        problems.append(expected("--workers", options.num_workers, allowed, remedy))
    if options.max_minutes < math.inf:
        remedy = "Give --slurm.minutes: tasks stop shortly before, and are requeued."
        problems.append(expected("--max_minutes", options.max_minutes, "without --slurm", remedy))
    refuse(problems + workspace.check(study.workdir, study.spec))


def submit(study: Study, options: Options, slurm_options: SlurmOptions) -> str:
    """Submits what is left of a study to Slurm, and returns at once.

    A search (`fork.search=coarse_to_fine`) has its first round spread over the tasks; the later
    ones, which are not known yet, are for the closing task.

    Args:
        study: any part of it may be done already.
        options: workers and batches of every task.
        slurm_options: what every task asks for.

    Returns:
        What was submitted, where the logs are, and how to see what is left.

    Raises:
        InvalidInput: submitit or Slurm is absent or refuses, or what `experiment.run` would refuse.
            Unless Slurm refuses, nothing was written.
    """
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if importlib.util.find_spec("submitit") is None:
        absent.append("submitit (pip install 'earlyprune-jax[slurm]')")
    remedy = "Run this on a login node of the cluster, or leave --slurm out."
    problems = [f"Expected {', '.join(absent)} on the PATH for --slurm. {remedy}"] if absent else []
    require(study, options, slurm_options, problems)
    study.mend_ended(plan.members(study.spec), functools.partial(print, flush=True))
    stages = _num_tasks(study, slurm_options)
    if not stages and (study.workdir / "config.json").is_file():
        return (
            "Every run has ended: nothing was submitted. The same command without --slurm sums it "
            "up."
        )
    # Here, not in the jobs: data that cannot be had should show now, and be fetched once.
    experiment.begin(Trainer(study, SILENT), options, trains=False)
    study = Study(study.spec, study.workdir.absolute())
    folder = study.workdir / "slurm" / time.strftime("%Y%m%d-%H%M%S")
    with storage.using(folder):
        folder.mkdir(parents=True)
    tasks = {
        stage: [functools.partial(work, study, options, slurm_options.minutes, stage)] * count
        for stage, count in stages.items()
    }
    ids = submit_arrays(tasks, slurm_options, folder)
    lines = [
        "Submitted to Slurm; each begins when the one before has ended:",
        *(f"  job {array_id}: {line}" for array_id, line in zip(ids, _lines(stages), strict=True)),
        f"Logs: {folder}",
        f"Progress: squeue -j {','.join(ids)}; what is left: the same command with --dry_run.",
        "The last job writes tables and figures. The same command submits what failed jobs "
        "have left; without --slurm it does that in this process.",
    ]
    return "\n".join(lines)


def preview(study: Study, slurm_options: SlurmOptions) -> str:
    """Describes the stages that `submit` would submit."""
    stages = _num_tasks(study, slurm_options)
    if not stages:
        return "Slurm: nothing is left to submit"
    names = ("minutes", "cpus", "gpus", "memory_gb")
    asked = ", ".join(f"{name}={getattr(slurm_options, name):g}" for name in names)
    lines = [f"Slurm: each task {asked}; a stage begins when the one before has ended"]
    lines += [f"  {line}" for line in _lines(stages)]
    if study.spec.fork.search == "coarse_to_fine":
        lines.append("  the later rounds of the search are for the closing task")
    return "\n".join(lines)


def _lines(stages: Mapping[str, int]) -> list[str]:
    return [f"{stage}, tasks: {count}, {STAGES[stage][1]}" for stage, count in stages.items()]


def _num_tasks(study: Study, slurm_options: SlurmOptions) -> dict[str, int]:
    """Returns stage -> number of tasks of what is left; stages without any are left out."""
    left = study.left(study.wanted_members())
    num_trunks = sum(isinstance(member, Trunk) for member in left)
    num_pruned = min(slurm_options.num_tasks, len(left) - num_trunks)
    counts = {"trunks": num_trunks, "pruned": num_pruned, CLOSING: min(1, len(left))}
    return {stage: count for stage, count in counts.items() if count}


def submit_arrays(
    stages: Mapping[str, Sequence[Callable[[], None]]], options: SlurmOptions, folder: Path
) -> list[str]:
    """Submits job arrays, each to begin when the one before has ended, well or not.

    All or nothing: where Slurm refuses a stage, those before it are cancelled.

    Args:
        stages: name -> what each of its jobs does, which must be picklable by name; none is empty.
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
    for name, tasks in stages.items():
        after = ids[-1] if ids else None
        executor.update_parameters(**options.parameters(f"earlyprune-{name}", after))
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


def work(study: Study, options: Options, minutes: int, stage: str) -> None:
    """Is what one job does: it works until all is done, or until shortly before its limit.

    Args:
        study: in an absolute workdir.
        options: workers and batches.
        minutes: the job's limit.
        stage: a key of `STAGES`.
    """
    keep_freed_memory()
    avoid_miscompilation()
    use_code(study.spec)
    scope, is_closing = STAGES[stage][0], stage == CLOSING

    def take_part(max_minutes: float) -> None:
        limited = dataclasses.replace(options, max_minutes=max_minutes)
        experiment.take_part(study, limited, scope, closes=is_closing)

    def epochs_on_record() -> dict[Member, int]:
        return {
            member: 0 if isinstance(member, Comparison) else study.records(member).num_sound()
            for member in pending_members(study, scope)
        }

    job.carry_out(take_part, epochs_on_record, job_id(), minutes, is_shared=not is_closing)
