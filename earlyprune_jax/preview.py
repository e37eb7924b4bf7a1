"""What an experiment would do, for --dry_run: config, trunks, cells, groups, time, disk. Writes
nothing."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import jax

from earlyprune_jax import tasks
from earlyprune_jax.grid import members as grid_members
from earlyprune_jax.grid import options as running
from earlyprune_jax.grid import plan
from earlyprune_jax.grid.members import Comparison, Member, Run, Trunk
from earlyprune_jax.grid.options import Options
from earlyprune_jax.grid.plan import Cost
from earlyprune_jax.grid.study import Study, free_bytes
from earlyprune_jax.grid.workers import step_seconds
from earlyprune_jax.spec import RunSpec, Setting
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training import optim

MOST_LISTED = 40
ALONE = Options()


def preview(study: Study, options: Options = ALONE, *, measure: bool = False) -> str:
    """Writes the resolved config, every run with its length, the groups, and the plan's cost.

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
    spec, members = study.spec, study.wanted_members()
    runs = [member for member in members if not isinstance(member, Comparison)]
    left = study.left(runs)
    lengths = tasks.steps_per_epoch(spec)
    costs, left_costs = _costs(spec, runs, lengths), _costs(spec, left, lengths)
    num_trunks = sum(isinstance(run, Trunk) for run in runs)
    lines = [json.dumps(spec.to_dict(), indent=2), "", f"Runs (study {spec.study_id()}):"]
    lines += _run_lines(study, runs, lengths)
    lines += ["", *_group_lines(study, members), "", *_example_lines(spec)]
    lines.append(
        f"Total: {len(runs)} runs ({_counted(num_trunks, 'trunk')}, {len(runs) - num_trunks} "
        f"pruned), {_total(costs, 'num_epochs')} epochs, {_total(costs, 'num_steps')} training "
        "steps"
    )
    if len(left) < len(runs):
        num_steps = _total(left_costs, "num_steps")
        lines.append(f"Left to do: {len(left)} runs, {num_steps} training steps")
    if measure:
        lines.append(_time_line(spec, left_costs, options))
    lines.append(
        f"Disk: {_total(costs, 'num_checkpoints')} checkpoints, about "
        f"{_total(costs, 'disk_bytes') / 1e6:.0f} MB; {free_bytes(study.workdir) / 1e6:.0f} MB free"
    )
    return "\n".join(lines)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _run_lines(study: Study, runs: Sequence[Run], lengths: dict[Setting, int]) -> list[str]:
    spec, lines = study.spec, []
    most = "at most " * (spec.fork.when == "trigger")
    for run in runs[:MOST_LISTED]:
        num_epochs = run.num_epochs(spec.at(run.setting))
        where = f" ({run.setting.words()})" if run.setting.values else ""
        lines.append(
            f"  {grid_members.directory(spec, run)}{where}: {most}{num_epochs} epochs, "
            f"{num_epochs * lengths[run.setting]} steps"
        )
    if len(runs) > MOST_LISTED:
        lines.append(f"  ... and {len(runs) - MOST_LISTED} more")
    if spec.fork.when == "trigger":
        lines.append(
            f"  {spec.fork.trigger} decides; dense and pruned part share "
            f"{spec.train.num_epochs} epochs"
        )
    if spec.fork.search == "coarse_to_fine":
        lines.append("  and then the cells around the best of these, within fork.max_cells")
    return lines


def _group_lines(study: Study, members: Sequence[Member]) -> list[str]:
    runs = [member for member in members if not isinstance(member, Comparison)]
    sizes: Counter[tuple[str, str, int]] = Counter()
    names: dict[str, str] = {}
    for run in runs:
        spec, swept = study.at(run.setting), run.setting.trunk.words()
        engine = engines.engine_id(spec)
        names.setdefault(engine, ", ".join(filter(None, [spec.model.name, swept])))
        kind = "trunk" if isinstance(run, Trunk) else "fork"
        sizes[engine, kind, run.num_epochs(spec)] += 1
    lines = ["Groups of one shape (forks of a group share a compilation, and may train together):"]
    for (engine, kind, num_epochs), count in sizes.items():
        lines.append(f"  {names[engine]}: {_counted(count, kind)} of {num_epochs} epochs")
    lines.append(f"Comparisons of replicates: {len(members) - len(runs)}")
    return lines


def _example_lines(spec: RunSpec) -> list[str]:
    lines = []
    for setting in spec.settings():
        batching = tasks.abstract(spec.at(setting)).batching
        splits = ", ".join(f"{count} {name}" for name, count in batching.num_examples.items())
        lines.append(f"Examples: {splits}; {batching.steps_per_epoch} steps an epoch")
    return list(dict.fromkeys(lines))


def _costs(spec: RunSpec, runs: Iterable[Run], lengths: dict[Setting, int]) -> dict[Setting, Cost]:
    """Estimates what the runs of every setting cost."""
    by_setting: dict[Setting, list[Run]] = {}
    for run in runs:
        by_setting.setdefault(run.setting, []).append(run)
    costs = {}
    for setting, members in by_setting.items():
        of_setting = spec.at(setting)
        task = tasks.abstract(of_setting)
        make_state = engines.state_maker(task, optim.make(of_setting.optim, task.optimizer))
        state = jax.eval_shape(make_state, jax.ShapeDtypeStruct((2,), "uint32"))
        costs[setting] = plan.cost(
            of_setting,
            members,
            steps_per_epoch=lengths[setting],
            state_bytes=plan.tree_bytes(state),
        )
    return costs


def _total(costs: dict[Setting, Cost], name: str) -> int:
    return sum(getattr(cost, name) for cost in costs.values())


def _time_line(spec: RunSpec, left: dict[Setting, Cost], options: Options) -> str:
    """Estimates the time all steps take, from a few of each network and data fraction on a
    worker's share of cores."""
    cores = running.shares(running.usable_cores(), options.num_workers)[0]
    timed = step_seconds(spec, cores)
    names = {engines.engine_id(own): own.model.name for own in map(spec.at, spec.settings())}
    seconds = sum(
        cost.num_steps * timed[engines.engine_id(spec.at(setting))]
        for setting, cost in left.items()
    )
    minutes = math.ceil(seconds / options.num_workers / 60)
    duration = _counted(minutes, "minute") if minutes <= 120 else f"{minutes / 60:.0f} hours"
    steps = ", ".join(f"{names[engine]} {1000 * value:.1f} ms" for engine, value in timed.items())
    workers, on_cores = _counted(options.num_workers, "worker"), _counted(len(cores), "core")
    return (
        f"Time: about {duration} in {workers} for the training steps left (a step on {on_cores}: "
        f"{steps}, measured now, forks one by one); evaluation, signals and compilation come on top"
    )
