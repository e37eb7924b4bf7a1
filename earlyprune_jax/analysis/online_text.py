"""Runs that pruned themselves, in words: what each seed chose, and what can be said of it."""

from collections.abc import Iterator, Sequence

from earlyprune_jax.analysis import curves, labels
from earlyprune_jax.analysis.curves import Curve
from earlyprune_jax.analysis.runs import Run, Setting

MAX_NAMED = 6


def paragraphs(curve: Curve) -> Iterator[str]:
    """The trigger, the epoch each seed chose by it, and the accuracy that came of it."""
    members = sorted(curve.members, key=lambda run: run.trunk_seed)
    # Replicates of a seed share its trunk, and so its epoch.
    by_seed = {run.trunk_seed: run for run in members}
    chosen = [f"seed {seed} {_fired_text(run)}" for seed, run in list(by_seed.items())[:MAX_NAMED]]
    more = f", and {len(by_seed) - MAX_NAMED} more" if len(by_seed) > MAX_NAMED else ""
    accuracy = curves.stats(run.last("test_accuracy") for run in members)
    number = labels.percent(accuracy, decimals=2, plus_minus="+-")
    yield f"Pruned by its own trigger: {labels.curve_label(curve)}"
    yield f"  Trigger: {members[0].trigger}; pruned {', '.join(chosen)}{more}."
    yield f"  Test accuracy {number} (n = {accuracy.n})."


def lines(online: Sequence[Curve]) -> Iterator[str]:
    """Of many curves a line each: at which epochs its runs were pruned, and their accuracy."""
    axes = curves.varying(online)
    shared = labels.curve_label(online[0], [axis for axis in curves.CURVE_AXES if axis not in axes])
    yield f"Pruned by their own trigger, {online[0].members[0].trigger}{f': {shared}' * bool(shared)}"
    for curve in online:
        accuracy = curves.stats(run.last("test_accuracy") for run in curve.members)
        number = labels.percent(accuracy, decimals=2, plus_minus="+-")
        label, where = labels.curve_label(curve, axes), _epochs(sorted(curve.runs))
        yield f"  {label}: after {where}, test accuracy {number} (n = {accuracy.n})."


def sentence(online: Sequence[Curve], runs: Sequence[Run], num_epochs: int) -> str:
    """What takes the place of a recommendation: one choice without a comparison recommends nothing."""
    stayed_dense = {_trunk(run) for run in runs if run.kind == "online" and run.fork_epoch is None}
    members = [run for curve in online for run in curve.members]
    by_trunk = {_trunk(run): run for run in members}
    noun = "seed" if len({run.setting for run in members}) == 1 else "trunk"
    pruned = sorted({epoch for curve in online for epoch in curve.runs})
    rewound = any(map(_rewound, members))
    never = sum(run.fired_epoch is None for run in by_trunk.values()) + len(stayed_dense)
    dense = [_dense_epochs(run) for run in by_trunk.values()]
    axes = curves.varying(online) or ["sparsity"]
    setting_axes = labels.varying_settings(run.setting for run in members)
    accuracies = [_accuracy(curve, axes, setting_axes) for curve in online[:4]]
    parts = [
        f"none from this run alone; it pruned itself after {_epochs(pruned)} of {num_epochs}",
        f" (rule {members[0].trigger}{', rewound' if rewound else ''})",
        f": {', '.join(accuracies)}{' and more' if len(online) > 4 else ''}",
        f", {_saved(num_epochs, dense)} of dense training saved",
        f"; the rule never fired in {never} of {_counted(len(by_trunk.keys() | stayed_dense), noun)}"
        if never
        else "",
        f", and {len(stayed_dense)} stayed dense" if stayed_dense else "",
        "; whether that was best cannot be known from this run alone: a grid of forks would tell",
    ]
    return "".join(parts)


def _trunk(run: Run) -> tuple[Setting, int]:
    return run.setting, run.trunk_seed


def _fired_text(run: Run) -> str:
    if run.fired_epoch is None:
        return f"after epoch {run.fork_epoch} (never fired)"
    rewound = f" (fired at {run.fired_epoch}, rewound)" if _rewound(run) else ""
    return f"after epoch {run.fork_epoch}{rewound}"


def _rewound(run: Run) -> bool:
    """Whether older weights than those at the firing were pruned."""
    return run.fired_epoch is not None and run.fork_epoch != run.fired_epoch


def _accuracy(curve: Curve, axes: Sequence[str], setting_axes: Sequence[str]) -> str:
    accuracy = curves.stats(run.last("test_accuracy") for run in curve.members)
    seeds = f" (n = {accuracy.n})" if accuracy.n > 1 else ""
    number = labels.percent(accuracy, plus_minus="+-")
    setting = f" of {labels.setting_label(curve.setting, setting_axes)}" if setting_axes else ""
    return f"{number} test accuracy with {labels.curve_label(curve, axes)}{setting}{seeds}"


def _dense_epochs(run: Run) -> int:
    """Epochs trained dense: up to the firing, or to the fallback epoch."""
    return run.fired_epoch if run.fired_epoch is not None else run.fork_epoch or 0


def _saved(num_epochs: int, dense: Sequence[int]) -> str:
    low, high = num_epochs - max(dense), num_epochs - min(dense)
    return _counted(low, "epoch") if low == high else f"{low} to {high} epochs"


def _epochs(epochs: Sequence[int]) -> str:
    return f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {epochs[0]} to {epochs[-1]}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
