"""What an experiment would do, for --dry_run: config, trunks, cells, groups, time, disk. Writes
nothing."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import jax

from earlyprune_jax import tasks
from earlyprune_jax.grid import identity, options, plan, step_time
from earlyprune_jax.grid.members import Comparison, Member, Run, Trunk
from earlyprune_jax.grid.options import Options
from earlyprune_jax.grid.plan import Cost
from earlyprune_jax.grid.search import wanted_members
from earlyprune_jax.grid.study import Study, free_bytes
from earlyprune_jax.spec import RunSpec, Setting
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training import optim

MOST_LISTED = 40
ALONE = Options()


def preview(study: Study, how: Options = ALONE, *, measure: bool = False) -> str:
    """The resolved config, every run with its length, the groups, and the plan's cost, as text.

    Args:
        study: the spec, and the workdir in which part of it may be done already.
        how: workers among which the estimated time is divided.
        measure: time a few training steps of every network and data fraction, and estimate the
            whole.

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
    lengths = tasks.steps_per_epoch(spec)
    lines = [json.dumps(spec.to_dict(), indent=2), "", f"Runs (study {spec.study_id()}):"]
    lines += _run_lines(study, runs, lengths)
    lines += ["", *_group_lines(study, members, lengths), "", *_example_lines(spec)]
    costs = _costs(spec, runs, lengths)
    still = study.left(runs)
    left = _costs(spec, still, lengths)
    lines.append(_total_line(runs, costs.values()))
    lines += _left_lines(runs, still, left)
    if measure:
        lines.append(_time_line(spec, left, how))
    num_checkpoints = sum(cost.num_checkpoints for cost in costs.values())
    megabytes = sum(cost.disk_bytes for cost in costs.values()) / 1e6
    free = free_bytes(study.workdir) / 1e6
    lines.append(
        f"Disk: {num_checkpoints} checkpoints, about {megabytes:.0f} MB; {free:.0f} MB free"
    )
    return "\n".join(lines)


def _run_lines(study: Study, runs: Sequence[Run], lengths: dict[Setting, int]) -> list[str]:
    spec, lines = study.spec, []
    most = "at most " * (spec.fork.when == "trigger")
    for run in runs[:MOST_LISTED]:
        num_epochs = run.num_epochs(spec.at(run.setting))
        steps = num_epochs * lengths[run.setting]
        where = f" ({run.setting.words()})" if run.setting.values else ""
        lines.append(
            f"  {identity.directory(spec, run)}{where}: {most}{num_epochs} epochs, {steps} steps"
        )
    if len(runs) > MOST_LISTED:
        lines.append(f"  ... and {len(runs) - MOST_LISTED} more")
    if spec.fork.when == "trigger":
        lines.append(
            f"  {spec.fork.trigger} decides; dense and pruned part share {spec.train.num_epochs} epochs"
        )
    if spec.fork.search == "coarse_to_fine":
        most_cells = f", at most {spec.fork.max_cells} cells a curve" if spec.fork.max_cells else ""
        lines.append(f"  and then the cells around the best of these{most_cells}")
    return lines


def _group_lines(study: Study, members: Sequence[Member], lengths: dict[Setting, int]) -> list[str]:
    runs = [member for member in members if not isinstance(member, Comparison)]
    sizes: Counter[tuple[str, int, bool]] = Counter()
    names: dict[str, str] = {}
    for group in plan.groups(study.spec, runs):
        first = group.runs[0]
        sizes[group.engine, group.num_epochs, isinstance(first, Trunk)] += len(group.runs)
        own = study.at(first.setting)
        part = f"{own.model.name}, {100 * own.data.train_fraction:g} % of the data"
        names.setdefault(group.engine, ", ".join(filter(None, (part, first.setting.trunk.words()))))
    lines = [
        "Groups of one shape (forks of a group share a compilation, and may train as one batch):"
    ]
    for (engine, num_epochs, is_dense), count in sizes.items():
        kind = "trunk" if is_dense else "fork"
        lines.append(f"  {names[engine]}: {count} {kind}{'s' * (count > 1)} of {num_epochs} epochs")
    compared = len(members) - len(runs)
    return [*lines, f"Comparisons of replicates: {compared}"] if compared else lines


def _example_lines(spec: RunSpec) -> list[str]:
    lines = []
    for setting in spec.settings():
        batching = tasks.abstract(spec.at(setting)).batching
        splits = ", ".join(f"{count} {name}" for name, count in batching.num_examples.items())
        lines.append(f"Examples: {splits}; {batching.steps_per_epoch} steps an epoch")
    return list(dict.fromkeys(lines))


def _costs(spec: RunSpec, runs: Iterable[Run], lengths: dict[Setting, int]) -> dict[Setting, Cost]:
    own: dict[Setting, list[Run]] = {}
    for run in runs:
        own.setdefault(run.setting, []).append(run)
    return {
        setting: plan.cost(
            spec.at(setting),
            members,
            steps_per_epoch=lengths[setting],
            state_bytes=_state_bytes(spec.at(setting)),
        )
        for setting, members in own.items()
    }


def _total_line(runs: Sequence[Run], costs: Iterable[Cost]) -> str:
    costs = list(costs)
    num_epochs, num_steps = (
        sum(getattr(cost, name) for cost in costs) for name in ("num_epochs", "num_steps")
    )
    trunks = sum(isinstance(run, Trunk) for run in runs)
    made_of = f"{len(runs)} runs ({trunks} trunk{'s' * (trunks != 1)}, {len(runs) - trunks} pruned)"
    return f"Total: {made_of}, {num_epochs} epochs, {num_steps} training steps"


def _left_lines(
    runs: Sequence[Run], still: Sequence[Member], left: dict[Setting, Cost]
) -> list[str]:
    if len(still) == len(runs):
        return []
    num_steps = sum(cost.num_steps for cost in left.values())
    return [f"Left to do: {len(still)} runs, {num_steps} training steps"]


def _time_line(spec: RunSpec, left: dict[Setting, Cost], how: Options) -> str:
    """The time all steps take, from a few of each network and data fraction on a worker's share of
    cores."""
    cores = options.shares(options.usable_cores(), how.num_workers)[0]
    timed = step_time.measured(spec, cores)
    seconds = sum(
        cost.num_steps * timed[engines.engine_id(spec.at(setting))]
        for setting, cost in left.items()
    )
    names = {engines.engine_id(own): own.model.name for own in map(spec.at, spec.settings())}
    steps = ", ".join(f"{names[engine]} {1000 * value:.1f} ms" for engine, value in timed.items())
    workers = f" in {how.num_workers} workers" if how.num_workers > 1 else ""
    about = _duration(seconds / how.num_workers)
    on = f" on {len(cores)} core{'s' * (len(cores) > 1)}" if how.num_workers > 1 else ""
    return (
        f"Time: about {about}{workers} for the training steps left (a step{on}: {steps}, measured now, forks "
        "one by one); evaluation, signals and compilation come on top"
    )


def _duration(seconds: float) -> str:
    """
    Example:
        >>> _duration(50), _duration(5000), _duration(500000)
        ('1 minute', '84 minutes', '139 hours')
    """
    minutes = math.ceil(seconds / 60)
    if minutes <= 120:
        return f"{minutes} minute{'s' * (minutes != 1)}"
    return f"{seconds / 3600:.0f} hours"


def _state_bytes(spec: RunSpec) -> int:
    task = tasks.abstract(spec)
    make = engines.state_maker(task, optim.make(spec.optim, task.optimizer))
    return plan.tree_bytes(jax.eval_shape(make, jax.ShapeDtypeStruct((2,), "uint32")))
