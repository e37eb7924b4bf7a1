"""A study handed to Slurm: what is left of it, cut into stages, each a job array; and what their
jobs do.

    trunks   one task a trunk
    pruned   the cells, cut into at most --slurm.num_tasks tasks, when the trunks have ended
    closing  one task that trains whatever killed tasks have left, writes the tables and the figures

The jobs know of one another only through the workdir, so that any may be killed, requeued or
submitted again.
"""

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import config, experiment, memory, tasks
from earlyprune_jax.grid import identity, slurm, slurm_job, stages
from earlyprune_jax.grid.agenda import agenda
from earlyprune_jax.grid.members import Comparison, Member
from earlyprune_jax.grid.options import Options
from earlyprune_jax.grid.slurm import SlurmOptions
from earlyprune_jax.grid.stages import Part
from earlyprune_jax.grid.study import Study
from earlyprune_jax.spec import RunSpec, use_code
from earlyprune_jax.validate import expected, nearest

KINDS = {
    "trunks": "one trunk each",
    "pruned": "pruned runs",
    "closing": "what is left, tables, figures",
}
"""Stage -> what its tasks do."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What one job does; called there, after its fields have travelled in a pickle.

    Attributes:
        spec: of the study.
        workdir: absolute.
        how: workers, batches, and the members: `how.only`.
        minutes: the job's limit.
        closes: whether it writes the tables and figures.
    """

    spec: RunSpec
    workdir: Path
    how: Options
    minutes: int
    closes: bool = False

    def __call__(self) -> None:
        """Works until all is done, or until shortly before the limit; then it has the job
        requeued."""
        memory.keep_freed()
        use_code(self.spec)
        slurm_job.carry_out(self._work, self._standing, self.minutes)

    def _work(self, max_minutes: float) -> None:
        how = dataclasses.replace(self.how, max_minutes=max_minutes)
        experiment.take_part(Study(self.spec, self.workdir), how, closes=self.closes)

    def _standing(self) -> dict[Member, int]:
        study = Study(self.spec, self.workdir)
        only = frozenset(self.how.only)
        own = (
            member
            for member in agenda(study)
            if not only or identity.directory(self.spec, member) in only
        )
        return {
            member: 0 if isinstance(member, Comparison) else len(study.records(member).epochs())
            for member in study.unended(own)
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


def submit(study: Study, how: Options, options: SlurmOptions) -> Submission | None:
    """Submits what is left of a study to Slurm, and returns at once.

    A search (`fork.search=coarse_to_fine`) has its first round spread over the tasks; the later
    ones, which are not known yet, are for the closing task.

    Args:
        study: any part of it may be done already.
        how: workers and batches of every task.
        options: what every task asks for.

    Returns:
        None if nothing is left, and nothing was submitted.

    Raises:
        InvalidInput: submitit or Slurm is absent or refuses, jobs of this workdir are under way, or
            what `experiment.run` would refuse. Unless Slurm refuses, nothing was written.
    """
    absent = slurm.missing()
    require(study, how, options, absent or _under_way(study.workdir))
    if not study.left(agenda(study)) and (study.workdir / "config.json").is_file():
        return None
    # Here, not in the jobs: data that cannot be had should show now, and be fetched once.
    experiment.begin(study, how, trains=False)
    tasks = _tasks(study, how, options)
    folder = study.workdir.absolute() / "slurm" / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    named = [(job_name(study.workdir, stage), own) for stage, own in tasks.items()]
    ids = slurm.submit(named, options, folder)
    return Submission(tuple(ids), {stage: len(own) for stage, own in tasks.items()}, folder)


def require(
    study: Study, how: Options, options: SlurmOptions, problems: Sequence[str] = ()
) -> None:
    """Raises InvalidInput with everything that speaks against submitting, `problems` first."""
    found = [*problems, *options.check(), *how.check(num_cores=max(1, options.cpus))]
    if how.num_workers > 1 and options.gpus:
        remedy = "One process uses all accelerators of a task: leave it out."
        found.append(expected("--workers", how.num_workers, "to be 1 with --slurm.gpus", remedy))
    if how.max_minutes < float("inf"):
        remedy = "Give --slurm.minutes: tasks stop shortly before, and are requeued."
        found.append(expected("--max_minutes", how.max_minutes, "without --slurm", remedy))
    experiment.require_study(study, found)


def _under_way(workdir: Path) -> list[str]:
    ids = slurm.active([job_name(workdir, stage) for stage in KINDS])
    if not ids:
        return []
    remedy = f"Wait for them, or: scancel {' '.join(ids)}"
    return [expected("--workdir", str(workdir), "to have no job that waits or runs", remedy)]


def job_name(workdir: Path, stage: str) -> str:
    """What jobs are called in the queue: by it those of one workdir are found.

    Example:
        >>> job_name(Path("/scratch/me/run"), "trunks")
        'earlyprune-trunks-a5f811d1'
    """
    return f"earlyprune-{stage}-{hashlib.sha256(str(workdir.resolve()).encode()).hexdigest()[:8]}"


def _cut(study: Study, options: SlurmOptions) -> stages.Stages:
    """What is left, in parts."""
    spec = study.spec

    lengths = tasks.steps_per_epoch(spec)
    return stages.cut(spec, study.left(agenda(study)), options.num_tasks, lengths.__getitem__)


def _tasks(study: Study, how: Options, options: SlurmOptions) -> dict[str, list[Task]]:
    """Stage -> its tasks; stages without any are left out."""
    workdir = study.workdir.absolute()

    def task(part: Part) -> Task:
        only = tuple(
            identity.directory(study.spec, member) for member in (*part.trunks, *part.members)
        )
        return Task(study.spec, workdir, dataclasses.replace(how, only=only), options.minutes)

    found = _cut(study, options)
    closing = Task(study.spec, workdir, how, options.minutes, closes=True)
    made = {
        "trunks": [task(part) for part in found.trunks],
        "pruned": [task(part) for part in found.pruned],
        "closing": [closing],
    }
    return {stage: tasks for stage, tasks in made.items() if tasks}


def preview(study: Study, options: SlurmOptions) -> str:
    """The stages that `submit` would submit, as text."""
    found = _cut(study, options)
    if not found.trunks and not found.pruned:
        return "Slurm: nothing is left to submit"
    counts = [len(part.members) for part in found.pruned]
    most = f", {min(counts)} to {max(counts)} members in each" if counts else ""
    lines = [f"Slurm: each task {_asked(options)}; a stage begins when the one before has ended"]
    lines += [f"  trunks: {_tasks_of(len(found.trunks))}"] if found.trunks else []
    lines += [f"  pruned: {_tasks_of(len(counts))}{most}"] if counts else []
    later = (
        " and the later rounds of the search" if study.spec.fork.search == "coarse_to_fine" else ""
    )
    return "\n".join(
        [*lines, f"  closing: 1 task: what killed tasks have left{later}, tables, figures"]
    )


def _asked(options: SlurmOptions) -> str:
    wanted = [f"{options.minutes} minutes", f"{options.cpus} core{'s' * (options.cpus != 1)}"]
    wanted += [f"{options.gpus} GPU{'s' * (options.gpus != 1)}"] * bool(options.gpus)
    wanted += [f"{options.memory_gb:g} GB"] * bool(options.memory_gb)
    return ", ".join(wanted)


def _tasks_of(count: int) -> str:
    return f"{count} task{'s' * (count != 1)}"


def announcement(submitted: Submission, workdir: Path) -> str:
    """What the user is told after submitting."""
    names = ",".join(job_name(workdir, stage) for stage in submitted.stages)
    lines = ["Submitted to Slurm:"]
    before = ""
    for (stage, count), job_id in zip(submitted.stages.items(), submitted.job_ids, strict=True):
        lines.append(f"  job {job_id}: {stage}, {_tasks_of(count)} ({KINDS[stage]}){before}")
        before = f", after job {job_id}"
    return "\n".join(
        [
            *lines,
            f"Logs: {submitted.folder}",
            f"Progress: squeue -n {names}; what is left: the same command with --dry_run.",
            "Tables and figures: the last job writes them. The same command goes on with what jobs that came "
            "to grief have left; without --slurm it does so in this process.",
        ]
    )


def parse(given: Sequence[tuple[str, str]]) -> tuple[SlurmOptions | None, list[str]]:
    """Reads `--slurm.KEY=VALUE` flags; `extra` may be given more than once.

    Returns:
        The options, or what is wrong with the flags.

    Example:
        >>> options, problems = parse([("minutes", "90"), ("extra", "qos=long"), ("extra", "exclusive")])
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
