"""Hands a study to Slurm: three stages, each a job array that begins when the one before has ended.

    trunks   one task per trunk
    pruned   at most --slurm.num_tasks tasks, which take what is free until nothing is
    closing  one task that trains whatever killed tasks have left, writes the tables and the figures

Tasks know of one another only through the workdir, so any may be killed, requeued or submitted
again.
"""

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import config, experiment
from earlyprune_jax.grid import worker
from earlyprune_jax.grid.members import Comparison, Member, Trunk
from earlyprune_jax.grid.options import Options
from earlyprune_jax.grid.scheduler import Scope
from earlyprune_jax.grid.search import wanted_members
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import SILENT, Trainer
from earlyprune_jax.slurm import arrays, job
from earlyprune_jax.slurm.arrays import SlurmOptions
from earlyprune_jax.spec import RunSpec, use_code
from earlyprune_jax.validate import expected, nearest
from earlyprune_jax.workspace import job_id

CLOSING = "closing"
STAGES: dict[str, tuple[Scope, str]] = {
    "trunks": (Scope(trunks_only=True, waits=False), "dense runs"),
    "pruned": (Scope(waits=False), "pruned runs"),
    CLOSING: (Scope(), "what killed tasks have left, tables, figures"),
}
"""Stage -> what its tasks take of the study, and what they do in words."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What one job does; called there, after its fields have travelled in a pickle.

    Attributes:
        spec: of the study.
        workdir: absolute.
        options: workers and batches.
        minutes: the job's limit.
        stage: a key of `STAGES`.
    """

    spec: RunSpec
    workdir: Path
    options: Options
    minutes: int
    stage: str

    def __call__(self) -> None:
        """Works until all is done, or until shortly before the limit; then has the job requeued."""
        worker.keep_freed_memory()
        use_code(self.spec)
        is_shared = self.stage != CLOSING
        job.carry_out(
            self._work, self._epochs_on_record, job_id(), self.minutes, is_shared=is_shared
        )

    def _work(self, max_minutes: float) -> None:
        options = dataclasses.replace(self.options, max_minutes=max_minutes)
        study, (scope, _) = Study(self.spec, self.workdir), STAGES[self.stage]
        experiment.take_part(study, options, scope, closes=self.stage == CLOSING)

    def _epochs_on_record(self) -> dict[Member, int]:
        study, (scope, _) = Study(self.spec, self.workdir), STAGES[self.stage]
        members = [
            member
            for member in wanted_members(study)
            if isinstance(member, Trunk) or not scope.trunks_only
        ]
        return {
            member: 0 if isinstance(member, Comparison) else len(study.records(member).epochs())
            for member in study.unended(members)
        }


@dataclasses.dataclass(frozen=True)
class Submission:
    """What has been submitted.

    Attributes:
        job_ids: of the arrays, in the order of the stages.
        stages: name -> number of tasks.
        folder: where the jobs' logs are.
    """

    job_ids: tuple[str, ...]
    stages: dict[str, int]
    folder: Path


def submit(study: Study, options: Options, slurm_options: SlurmOptions) -> Submission | None:
    """Submits what is left of a study to Slurm, and returns at once.

    A search (`fork.search=coarse_to_fine`) has its first round spread over the tasks; the later
    ones, which are not known yet, are for the closing task.

    Args:
        study: any part of it may be done already.
        options: workers and batches of every task.
        slurm_options: what every task asks for.

    Returns:
        None if nothing is left, and nothing was submitted.

    Raises:
        InvalidInput: submitit or Slurm is absent or refuses, jobs of this workdir are under way, or
            what `experiment.run` would refuse. Unless Slurm refuses, nothing was written.
    """
    absent = arrays.missing()
    require(study, options, slurm_options, absent or _under_way(study.workdir))
    stages = _stages(study, slurm_options)
    if not stages and (study.workdir / "config.json").is_file():
        return None
    # Here, not in the jobs: data that cannot be had should show now, and be fetched once.
    experiment.begin(Trainer(study, SILENT), options, trains=False)
    workdir = study.workdir.absolute()
    folder = workdir / "slurm" / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    named = [
        (
            job_name(workdir, stage),
            [Task(study.spec, workdir, options, slurm_options.minutes, stage)] * count,
        )
        for stage, count in stages.items()
    ]
    ids = arrays.submit(named, slurm_options, folder)
    return Submission(tuple(ids), stages, folder)


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
        remedy, allowed = "One process uses all accelerators of a task: leave it out.", "to be 1"
        allowed += " with --slurm.gpus"
        problems.append(expected("--workers", options.num_workers, allowed, remedy))
    if options.max_minutes < float("inf"):
        remedy = "Give --slurm.minutes: tasks stop shortly before, and are requeued."
        problems.append(expected("--max_minutes", options.max_minutes, "without --slurm", remedy))
    experiment.require_study(study, problems)


def _under_way(workdir: Path) -> list[str]:
    ids = arrays.active([job_name(workdir, stage) for stage in STAGES])
    if not ids:
        return []
    remedy = f"Wait for them, or: scancel {' '.join(ids)}"
    return [expected("--workdir", str(workdir), "to have no job that waits or runs", remedy)]


def job_name(workdir: Path, stage: str) -> str:
    """Returns what jobs are called in the queue: by it those of one workdir are found.

    Example:
        >>> job_name(Path("/scratch/me/run"), "trunks")
        'earlyprune-trunks-a5f811d1'
    """
    return f"earlyprune-{stage}-{hashlib.sha256(str(workdir.resolve()).encode()).hexdigest()[:8]}"


def _stages(study: Study, slurm_options: SlurmOptions) -> dict[str, int]:
    """Returns stage -> number of tasks of what is left; stages without any are left out."""
    left = study.left(wanted_members(study))
    num_trunks = sum(isinstance(member, Trunk) for member in left)
    num_pruned = min(slurm_options.num_tasks, len(left) - num_trunks)
    counts = {"trunks": num_trunks, "pruned": num_pruned, CLOSING: min(1, len(left))}
    return {stage: count for stage, count in counts.items() if count}


def preview(study: Study, slurm_options: SlurmOptions) -> str:
    """Describes the stages that `submit` would submit."""
    stages = _stages(study, slurm_options)
    if not stages:
        return "Slurm: nothing is left to submit"
    asked = [_counted(slurm_options.minutes, "minute"), _counted(slurm_options.cpus, "core")]
    asked += [_counted(slurm_options.gpus, "GPU")] * bool(slurm_options.gpus)
    asked += [f"{slurm_options.memory_gb:g} GB"] * bool(slurm_options.memory_gb)
    lines = [f"Slurm: each task {', '.join(asked)}; a stage begins when the one before has ended"]
    for stage, count in stages.items():
        lines.append(f"  {stage}: {_counted(count, 'task')}, {STAGES[stage][1]}")
    if study.spec.fork.search == "coarse_to_fine":
        lines.append("  the later rounds of the search are for the closing task")
    return "\n".join(lines)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def announcement(submitted: Submission, workdir: Path) -> str:
    """Tells the user what was submitted, where the logs are, and how to see what is left."""
    names = ",".join(job_name(workdir, stage) for stage in submitted.stages)
    lines, before = ["Submitted to Slurm:"], ""
    for (stage, count), array_id in zip(submitted.stages.items(), submitted.job_ids, strict=True):
        tasks = _counted(count, "task")
        lines.append(f"  job {array_id}: {stage}, {tasks} ({STAGES[stage][1]}){before}")
        before = f", after job {array_id}"
    lines += [
        f"Logs: {submitted.folder}",
        f"Progress: squeue -n {names}; what is left: the same command with --dry_run.",
        "The last job writes tables and figures. The same command submits what failed jobs have "
        "left; without --slurm it does that in this process.",
    ]
    return "\n".join(lines)


def parse(given: Sequence[tuple[str, str]]) -> tuple[SlurmOptions | None, list[str]]:
    """Reads `--slurm.KEY=VALUE` flags; `extra` may be given more than once.

    Returns:
        The options, or what is wrong with the flags.

    Example:
        >>> given = [("minutes", "90"), ("extra", "qos=long"), ("extra", "exclusive")]
        >>> options, problems = parse(given)
        >>> options.minutes, options.extra, problems
        (90, ('qos=long', 'exclusive'), [])
        >>> parse([("minuts", "90")])
        (None, ["Unknown flag --slurm.minuts. Did you mean 'minutes'?"])
    """
    fields = {field.name: field.type for field in dataclasses.fields(SlurmOptions)}
    values: dict[str, Any] = {}
    problems = []
    for name, text in given:
        if name not in fields:
            hint = nearest(name, fields) or f"There are {', '.join(fields)}."
            problems.append(f"Unknown flag --slurm.{name}. {hint}")
        elif name == "extra":
            values[name] = (*values.get(name, ()), text)
        else:
            try:
                values[name] = config.parse(text, fields[name])
            except (ValueError, SyntaxError):
                kind = "a whole number" if fields[name] is int else "a number"
                problems.append(expected(f"--slurm.{name}", text, f"to be {kind}"))
    return (None if problems else SlurmOptions(**values)), problems
