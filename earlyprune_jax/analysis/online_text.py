"""Runs that pruned themselves, in words: what each seed chose, and what can be said of it."""

from collections.abc import Iterator, Sequence
from typing import Any

from earlyprune_jax.analysis import words
from earlyprune_jax.analysis.curves import Curve
from earlyprune_jax.analysis.panels import kind_of
from earlyprune_jax.analysis.places import Place, shared, varying
from earlyprune_jax.analysis.runs import Runs, each

MAX_NAMED = 6


def paragraphs(curve: Curve) -> Iterator[str]:
    """Says which trigger there was, the epoch each seed chose by it, and what came of it."""
    members = _members(curve)
    # Replicates of a seed share its trunk, and so its epoch.
    by_seed = {run.trunk_seed: run for run in members}
    chosen = [f"seed {seed} {_fired_text(run)}" for seed, run in list(by_seed.items())[:MAX_NAMED]]
    more = f", and {len(by_seed) - MAX_NAMED} more" if len(by_seed) > MAX_NAMED else ""
    found = curve.test()
    yield f"Pruned by its own trigger: {words.label(kind_of(curve))}"
    yield f"  Trigger: {members[0].trigger}; pruned {', '.join(chosen)}{more}."
    test = words.named(curve.metric).capitalize()
    yield f"  {test} {words.amount(found, curve.metric, decimals=2)} (n = {found.n})."


def lines(online: Sequence[Curve]) -> Iterator[str]:
    """Writes of many curves a line each: at which epochs its runs were pruned, and what came of
    it."""
    kinds = [kind_of(curve) for curve in online]
    same, axes = words.label(shared(kinds)), varying(kinds)
    yield f"Pruned by their own trigger, {_members(online[0])[0].trigger}{f': {same}' * bool(same)}"
    for kind, curve in zip(kinds, online, strict=True):
        found, where = curve.test(), words.epochs(curve.epochs)
        number = f"{words.named(curve.metric)} {words.amount(found, curve.metric, decimals=2)}"
        yield f"  {words.label(kind, axes)}: after {where}, {number} (n = {found.n})."


def sentence(online: Sequence[Curve], runs: Runs, num_epochs: int) -> str:
    """Takes the place of a recommendation: one choice without a comparison recommends nothing."""
    axes = list(runs.setting_axes)
    frame = runs.of_kind("online").frame
    stays = frame[frame["fork_epoch"].isna()]
    stayed_dense = set(stays[[*axes, "trunk_seed"]].itertuples(index=False, name=None))
    members = [(curve.setting, run) for curve in online for run in _members(curve)]
    by_trunk = {(*setting.named.values(), run.trunk_seed): run for setting, run in members}
    noun = "seed" if len({setting for setting, _ in members}) == 1 else "trunk"
    pruned = sorted({epoch for curve in online for epoch in curve.epochs})
    rewound = any(_rewound(run) for _, run in members)
    never = sum(run.fired_epoch is None for run in by_trunk.values()) + len(stayed_dense)
    dense = sorted(num_epochs - _dense_epochs(run) for run in by_trunk.values())
    saved = words.span(dense) + f" epoch{'s' * (dense[-1] != 1)}"
    found = [_found(curve, online) for curve in online[:4]]
    parts = [
        f"none from this run alone; it pruned itself after {words.epochs(pruned)} of {num_epochs}",
        f" (rule {members[0][1].trigger}{', rewound' if rewound else ''})",
        f": {', '.join(found)}{' and more' if len(online) > 4 else ''}",
        f", {saved} of dense training saved",
        f"; the rule never fired in {never} of {words.plural(len(by_trunk.keys() | stayed_dense), noun)}"
        if never
        else "",
        f", and {len(stayed_dense)} stayed dense" if stayed_dense else "",
        "; whether that was best cannot be known from this run alone: a grid of forks would tell",
    ]
    return "".join(parts)


def _members(curve: Curve) -> list[Any]:
    return sorted(each(curve.runs), key=lambda run: run.trunk_seed)


def _fired_text(run: Any) -> str:
    if run.fired_epoch is None:
        return f"after epoch {run.fork_epoch} (never fired)"
    rewound = f" (fired at {run.fired_epoch}, rewound)" if _rewound(run) else ""
    return f"after epoch {run.fork_epoch}{rewound}"


def _rewound(run: Any) -> bool:
    """Whether older weights than those at the firing were pruned."""
    return run.fired_epoch is not None and run.fork_epoch != run.fired_epoch


def _found(curve: Curve, online: Sequence[Curve]) -> str:
    found, kind = curve.test(), kind_of(curve)
    axes, places = varying(map(kind_of, online)) or ["sparsity"], [one.setting for one in online]
    seeds = f" (n = {found.n})" if found.n > 1 else ""
    setting: Place = curve.setting.only(varying(places))
    of = f" of {words.label(setting)}" if setting.items else ""
    number = f"{words.amount(found, curve.metric)} {words.named(curve.metric)}"
    return f"{number} with {words.label(kind, axes)}{of}{seeds}"


def _dense_epochs(run: Any) -> int:
    """Epochs trained dense: up to the firing, or to the fallback epoch."""
    return run.fork_epoch if run.fired_epoch is None else run.fired_epoch
