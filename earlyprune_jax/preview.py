"""What an experiment would do, for --dry_run: config, runs, steps, disk, time. Writes nothing."""

import json
import math

import jax
import pandas as pd

from earlyprune_jax import tasks
from earlyprune_jax.grid import options as running
from earlyprune_jax.grid import plan
from earlyprune_jax.grid.members import Comparison, Run, Trunk
from earlyprune_jax.grid.options import Options
from earlyprune_jax.grid.search import wanted_members
from earlyprune_jax.grid.study import Study, free_bytes
from earlyprune_jax.grid.workers import step_seconds
from earlyprune_jax.spec import RunSpec, Setting
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training import optim

ALONE = Options()


def preview(study: Study, options: Options = ALONE, *, measure: bool = False) -> str:
    """Writes the resolved config, a table of the runs and what they cost, and the totals.

    Args:
        study: the spec, and the workdir in which part of it may be done already.
        options: workers among which the estimated time is divided.
        measure: time a few training steps of every network and data fraction, and estimate the
            whole.

    Returns:
        The text, of many lines.

    Example:
        >>> from pathlib import Path
        >>> from configs import digits
        >>> from earlyprune_jax import config
        >>> study = Study(config.resolve(digits.get_config()), Path("no/such/workdir"))
        >>> print(preview(study).splitlines()[-1].split(";")[0])
        Disk: 150 checkpoints, about 57 MB
    """
    spec, members = study.spec, wanted_members(study)
    runs = [member for member in members if not isinstance(member, Comparison)]
    table = _table(study, runs)
    total = table.sum(numeric_only=True)
    lines = [
        json.dumps(spec.to_dict(), indent=2),
        "",
        f"Runs (study {spec.study_id()}):",
        table.drop(columns=["engine", "bytes"]).to_string(index=False),
        "",
        f"Total: {len(runs)} runs, {total['epochs']} epochs, {total['steps']} training steps; "
        f"{len(members) - len(runs)} comparisons of replicates",
        f"Left to do: {total['runs left']} runs, {total['steps left']} training steps",
    ]
    if spec.fork.when == "trigger":
        lines.append(
            f"{spec.fork.trigger} decides: these are the most epochs and steps; dense and pruned "
            f"part share {spec.train.num_epochs} epochs"
        )
    if spec.fork.search == "coarse_to_fine":
        lines.append("Then come the cells around the best of these, within fork.max_cells")
    if measure:
        lines.append(_time_line(spec, table, options))
    lines.append(
        f"Disk: {total['checkpoints']} checkpoints, about {total['bytes'] / 1e6:.0f} MB; "
        f"{free_bytes(study.workdir) / 1e6:.0f} MB free"
    )
    return "\n".join(lines)


def _table(study: Study, runs: list[Run]) -> pd.DataFrame:
    """Adds up the runs of every setting, trunks and pruned ones apart: a row each."""
    spec, lengths = study.spec, tasks.steps_per_epoch(study.spec)
    groups: dict[tuple[Setting, str], list[Run]] = {}
    for run in runs:
        kind = "trunks" if isinstance(run, Trunk) else "pruned"
        groups.setdefault((run.setting, kind), []).append(run)
    rows = []
    for (setting, kind), members in groups.items():
        own, left = spec.at(setting), study.left(members)
        task = tasks.abstract(own)
        make_state = engines.state_maker(task, optim.make(own.optim, task.optimizer))
        state = jax.eval_shape(make_state, jax.ShapeDtypeStruct((2,), "uint32"))
        cost, cost_left = (
            plan.cost(
                own, some, steps_per_epoch=lengths[setting], state_bytes=plan.tree_bytes(state)
            )
            for some in (members, left)
        )
        row = {"network": own.model.name, "setting": setting.words(), "kind": kind}
        row |= {f"{name} examples": num for name, num in task.batching.num_examples.items()}
        row |= {"runs": len(members), "epochs": cost.num_epochs, "steps": cost.num_steps}
        row |= {"runs left": len(left), "steps left": cost_left.num_steps}
        row |= {"checkpoints": cost.num_checkpoints, "bytes": cost.disk_bytes}
        rows.append({**row, "engine": engines.engine_id(own)})
    return pd.DataFrame(rows)


def _time_line(spec: RunSpec, table: pd.DataFrame, options: Options) -> str:
    """Estimates the time of all steps that are left, from a few of each network and data fraction
    on a worker's share of the cores."""
    cores = running.shares(running.usable_cores(), options.num_workers)[0]
    timed = step_seconds(spec, cores)
    seconds = (table["engine"].map(timed) * table["steps left"]).sum()
    names = dict(zip(table["engine"], table["network"], strict=True))
    steps = ", ".join(f"{names[engine]} {1000 * value:.1f} ms" for engine, value in timed.items())
    return (
        f"Time: about {math.ceil(seconds / options.num_workers / 60)} min for the training steps "
        f"left (workers: {options.num_workers}, each on cores: {len(cores)}; a step, measured now, "
        f"forks one by one: {steps}); evaluation, signals and compilation come on top"
    )
