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

from earlyprune_jax import experiment, leaving, records, storage, workspace
from earlyprune_jax.grid import plan
from earlyprune_jax.grid.members import Comparison, Member, Trunk
from earlyprune_jax.grid.options import Options, keep_freed_memory
from earlyprune_jax.grid.scheduler import Scope, pending_members
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import SILENT, Trainer
from earlyprune_jax.slurm import job
from earlyprune_jax.slurm.options import SlurmOptions
from earlyprune_jax.spec import use_code
from earlyprune_jax.validate import InvalidInput, expected, refuse
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

NOT_NOW = "Requested node configuration is not available"
"""What sbatch --test-only says where more is asked for than there is, and where nodes are down.

Jobs of such an array wait."""


class NotSubmitted(RuntimeError):
    """Slurm has refused a stage, after the workdir was made."""


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
        InvalidInput: submitit or Slurm is absent or would refuse, or what `experiment.run` would
            refuse. Nothing was written.
        NotSubmitted: Slurm refuses all the same; no job is left, and the workdir is ready.
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
    _ask(slurm_options, max(stages.values(), default=1))
    # Here, not in the jobs: data that cannot be had should show now, and be fetched once.
    experiment.begin(Trainer(study, SILENT), options, trains=False)
    study = Study(study.spec, study.workdir.absolute())
    folder = study.workdir / "slurm" / time.strftime("%Y%m%d-%H%M%S")
    with storage.using(folder):
        folder.mkdir(parents=True)
    minutes = slurm_options.minutes
    tasks = {
        stage: [functools.partial(work, study, options, minutes, stage, folder.name)] * count
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


def _ask(slurm_options: SlurmOptions, num_tasks: int) -> None:
    """Asks Slurm whether it would accept an array, and submits nothing.

    Raises:
        InvalidInput: it would not.
    """
    command = ["sbatch", "--test-only", *slurm_options.flags(num_tasks), "--wrap=true"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    said = " ".join(asked.stderr.split())
    if asked.returncode and NOT_NOW in said:
        print(f"Slurm says: {said}. Jobs wait until it is; if it never will be, scancel them.")
    elif asked.returncode:
        raise InvalidInput([f"Expected Slurm to accept what is asked of it. {said}"])


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
        NotSubmitted: Slurm refuses; its words are in the message.
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
            # Logs of a task that may have begun stay.
            cancel = ["scancel", *ids]
            subprocess.run(cancel, check=False) if ids else storage.remove_directory(folder)
            said = " ".join(str(error).split()).rstrip(".")
            remedy = "No job is left; the workdir is ready: the same command goes on from here."
            raise NotSubmitted(f"Expected Slurm to accept {name}. {said}. {remedy}") from error
        # An array of one is a plain job: 5, not 5_0.
        ids.append(jobs[0].job_id.partition("_")[0])
    return ids


def work(study: Study, options: Options, minutes: int, stage: str, submitted: str) -> None:
    """Is what one job does: it works until all is done, or until shortly before its limit.

    Args:
        study: in an absolute workdir.
        options: workers and batches.
        minutes: the job's limit.
        stage: a key of `STAGES`.
        submitted: the folder of the submission within `slurm`.
    """
    keep_freed_memory()
    avoid_miscompilation()
    leaving.keep_streams()
    try:
        use_code(study.spec)
        _work(study, options, minutes, stage, submitted)
    except Exception as error:  # whatever it is: the log of a job should end with a sentence
        job.give_up(error)


def _work(study: Study, options: Options, minutes: int, stage: str, submitted: str) -> None:
    scope, is_closing = STAGES[stage][0], stage == CLOSING

    def take_part(max_minutes: float) -> None:
        limited = dataclasses.replace(options, max_minutes=max_minutes)
        experiment.take_part(study, limited, scope, closes=is_closing)

    def epochs_on_record() -> dict[Member, int]:
        return {
            member: 0 if isinstance(member, Comparison) else study.records(member).num_sound()
            for member in pending_members(study, scope)
        }

    def count_fruitless(has_progressed: bool) -> int:
        before = (records.read_of_study(study.workdir, starts) or {}).get("fruitless", 0)
        count = 0 if has_progressed else before + 1
        records.write_of_study(study.workdir, starts, {"fruitless": count})
        return count

    own = job_id()
    starts, is_shared = f"slurm/{submitted}/{own}_starts.json", not is_closing
    job.carry_out(take_part, epochs_on_record, count_fruitless, own, minutes, is_shared=is_shared)
