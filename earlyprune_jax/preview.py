"""What an experiment would do, for --dry_run: config, trunks, cells, groups, time, disk. Writes
nothing."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import jax

from earlyprune_jax import tasks
from earlyprune_jax.grid import members as grid_members
from earlyprune_jax.grid import options, plan
from earlyprune_jax.grid.members import Comparison, Member, Run, Trunk
from earlyprune_jax.grid.options import Options
from earlyprune_jax.grid.plan import Cost
from earlyprune_jax.grid.search import wanted_members
from earlyprune_jax.grid.study import Study, free_bytes
from earlyprune_jax.grid.workers import step_seconds
from earlyprune_jax.spec import RunSpec, Setting
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training import optim

MOST_LISTED = 40
ALONE = Options()


def preview(study: Study, how: Options = ALONE, *, measure: bool = False) -> str:
    """Writes the resolved config, every run with its length, the groups, and the plan's cost.

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
    costs = _costs(spec, runs, lengths)
    left = study.left(runs)
    left_costs = _costs(spec, left, lengths)
    num_trunks = sum(isinstance(run, Trunk) for run in runs)
    lines = [json.dumps(spec.to_dict(), indent=2), "", f"Runs (study {spec.study_id()}):"]
    lines += _run_lines(study, runs, lengths)
    lines += ["", *_group_lines(study, members), "", *_example_lines(spec)]
    lines.append(
        f"Total: {len(runs)} runs ({num_trunks} trunk{'s' * (num_trunks != 1)}, "
        f"{len(runs) - num_trunks} pruned), {_total(costs, 'num_epochs')} epochs, "
        f"{_total(costs, 'num_steps')} training steps"
    )
    if len(left) < len(runs):
        num_steps = _total(left_costs, "num_steps")
        lines.append(f"Left to do: {len(left)} runs, {num_steps} training steps")
    if measure:
        lines.append(_time_line(spec, left_costs, how))
    lines.append(
        f"Disk: {_total(costs, 'num_checkpoints')} checkpoints, about "
        f"{_total(costs, 'disk_bytes') / 1e6:.0f} MB; {free_bytes(study.workdir) / 1e6:.0f} MB free"
    )
    return "\n".join(lines)


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
        most_cells = f", at most {spec.fork.max_cells} cells a curve" if spec.fork.max_cells else ""
        lines.append(f"  and then the cells around the best of these{most_cells}")
    return lines


def _group_lines(study: Study, members: Sequence[Member]) -> list[str]:
    runs = [member for member in members if not isinstance(member, Comparison)]
    sizes: Counter[tuple[str, str, int]] = Counter()
    names: dict[str, str] = {}
    for run in runs:
        own = study.at(run.setting)
        name = f"{own.model.name}, {100 * own.data.train_fraction:g} % of the data"
        swept = run.setting.trunk.words()
        engine = engines.engine_id(own)
        names.setdefault(engine, f"{name}, {swept}" if swept else name)
        kind = "trunk" if isinstance(run, Trunk) else "fork"
        sizes[engine, kind, run.num_epochs(own)] += 1
    lines = [
        "Groups of one shape (forks of a group share a compilation, and may train as one batch):"
    ]
    for (engine, kind, num_epochs), count in sizes.items():
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
    """Estimates what the runs of every setting cost."""
    by_setting: dict[Setting, list[Run]] = {}
    for run in runs:
        by_setting.setdefault(run.setting, []).append(run)
    costs = {}
    for setting, members in by_setting.items():
        own = spec.at(setting)
        task = tasks.abstract(own)
        make_state = engines.state_maker(task, optim.make(own.optim, task.optimizer))
        state = jax.eval_shape(make_state, jax.ShapeDtypeStruct((2,), "uint32"))
        costs[setting] = plan.cost(
            own,
            members,
            steps_per_epoch=lengths[setting],
            state_bytes=plan.tree_bytes(state),
        )
    return costs


def _total(costs: dict[Setting, Cost], name: str) -> int:
    return sum(getattr(cost, name) for cost in costs.values())


def _time_line(spec: RunSpec, left: dict[Setting, Cost], how: Options) -> str:
    """Estimates the time all steps take, from a few of each network and data fraction on a
    worker's share of cores."""
    cores = options.shares(options.usable_cores(), how.num_workers)[0]
    timed = step_seconds(spec, cores)
    names = {engines.engine_id(own): own.model.name for own in map(spec.at, spec.settings())}
    seconds = sum(
        cost.num_steps * timed[engines.engine_id(spec.at(setting))]
        for setting, cost in left.items()
    )
    steps = ", ".join(f"{names[engine]} {1000 * value:.1f} ms" for engine, value in timed.items())
    workers = on_cores = ""
    if how.num_workers > 1:
        workers = f" in {how.num_workers} workers"
        on_cores = f" on {len(cores)} core{'s' * (len(cores) > 1)}"
    return (
        f"Time: about {_duration(seconds / how.num_workers)}{workers} for the training steps left "
        f"(a step{on_cores}: {steps}, measured now, forks one by one); evaluation, signals and "
        "compilation come on top"
    )


def _duration(seconds: float) -> str:
    """Rounds seconds for a reader.

    Example:
        >>> _duration(50), _duration(5000), _duration(500000)
        ('1 minute', '84 minutes', '139 hours')
    """
    minutes = math.ceil(seconds / 60)
    if minutes <= 120:
        return f"{minutes} minute{'s' * (minutes != 1)}"
    return f"{seconds / 3600:.0f} hours"
