"""What a study is to do: the whole grid, or the cells that its search asks for by now."""

import itertools
import statistics

from earlyprune_jax.grid import plan, search
from earlyprune_jax.grid.members import Fork, Member
from earlyprune_jax.grid.plan import Cell, Curve
from earlyprune_jax.grid.study import Study
from earlyprune_jax.spec import Setting


def agenda(study: Study) -> list[Member]:
    """The members known to be wanted; a search may want more once these have ended."""
    spec = study.spec
    if spec.fork.search == "all":
        return plan.members(spec)
    cells = {
        (setting, curve): _searched(study, setting, curve)
        for setting, curve in itertools.product(spec.settings(), plan.curves(spec))
    }

    def starting(setting: Setting, seed: int) -> list[Member]:
        found = [
            run
            for curve in plan.curves(spec)
            for cell in cells[setting, curve]
            for run in plan.replicates(spec, setting, seed, cell, curve)
        ]
        return found + plan.baselines(spec, setting, seed)

    return plan.from_trunks(spec, starting)


def _searched(study: Study, setting: Setting, curve: Curve) -> list[Cell]:
    spec = study.spec
    lattice = itertools.product(spec.fork.epochs, spec.pruning.sparsities)
    forks = {cell: _forks(study, setting, curve, cell) for cell in lattice}
    ended = {cell: own for cell, own in forks.items() if not study.unended(own)}
    scores = {cell: _mean_score(study, own) for cell, own in ended.items()}
    return search.wanted(spec.fork.epochs, spec.pruning.sparsities, scores, spec.fork.max_cells)


def _forks(study: Study, setting: Setting, curve: Curve, cell: Cell) -> list[Fork]:
    """A cell's runs over all seeds and replicates."""
    found = (
        plan.replicates(study.spec, setting, seed, cell, curve) for seed in study.spec.train.seeds
    )
    return [run for run in itertools.chain.from_iterable(found) if isinstance(run, Fork)]


def _mean_score(study: Study, forks: list[Fork]) -> float | None:
    """The mean of the primary metric on validation, larger = better; None where a run came to
    nothing."""
    if set(study.statuses(forks)) != {"finished"}:
        return None
    primary = study.primary()
    column = primary.column("validation")
    return primary.sign * statistics.fmean(
        study.records(fork).epochs()[-1][column] for fork in forks
    )
