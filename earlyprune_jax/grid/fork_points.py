"""Where a pruned run leaves its trunk: at a planned epoch, or where the trunk's trigger fired."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from earlyprune_jax import triggers
from earlyprune_jax.grid.members import Fork, PrunedRun, label, trunk_of
from earlyprune_jax.spec import RunSpec
from earlyprune_jax.triggers import Trigger


@dataclasses.dataclass(frozen=True)
class ForkPoint:
    """From which weights a pruned run starts, and how many dense epochs they have cost.

    Attributes:
        fork: the run as a fork of its trunk; None where there is nothing to start from.
        dense_epochs: epochs the trunk has trained by then. The retraining schedule and the length
            of what is left follow from these; with a rewind they are more than the weights' epoch.
        described: what run.json says of the decision.
        sentence: the decision in words, or why there is no run.
    """

    fork: Fork | None
    dense_epochs: int
    described: dict[str, Any]
    sentence: str


def stopping_rule(spec: RunSpec) -> Trigger | None:
    """Returns what ends a trunk that prunes itself: the configured rule, or the fallback epoch."""
    if spec.fork.when == "epochs":
        return None
    rule = triggers.parse(spec.fork.trigger)
    fallback = spec.fork.fallback_epoch
    return triggers.First((rule, triggers.AtEpoch(fallback))) if fallback else rule


def fork_point(
    spec: RunSpec,
    run: PrunedRun,
    trunk_result: Mapping[str, Any] | None,
    history: Sequence[Mapping[str, Any]],
) -> ForkPoint:
    """Decides where a pruned run starts, from how its trunk went.

    Args:
        spec: of the run's setting.
        run: a fork of the grid, or a run that prunes itself.
        trunk_result: the trunk's result.json; None while it is unfinished.
        history: the trunk's epochs, flat.

    Returns:
        The fork point; without a fork where the trunk never got there.
    """
    loss = _loss_of(run, trunk_result)
    if isinstance(run, Fork):
        # The last epoch of a trunk that diverged or failed left nothing behind.
        is_lost = loss and trunk_result and trunk_result["epoch"] <= run.fork_epoch
        return ForkPoint(None if is_lost else run, run.fork_epoch, {}, loss if is_lost else "")
    rule, rewinds = triggers.parse(spec.fork.trigger), spec.fork.prune_at == "rewind"
    described = {
        "trigger": str(rule),
        "mode": spec.fork.prune_at,
        "fired_epoch": None,
        "marked_epoch": None,
    }
    stopped = (trunk_result or {}).get("fired")
    if not stopped:
        never = f"{rule} did not fire before the last of {spec.train.num_epochs} epochs, and "
        sentence = loss or f"{never}fork.fallback_epoch=0: nothing was pruned"
        return ForkPoint(None, 0, described, sentence)
    dense_epochs, firing = stopped["epoch"], rule(history)
    start = dense_epochs
    if firing is None:
        sentence = f"{rule} had not fired by fork.fallback_epoch={dense_epochs}: pruned there."
    else:
        marked = firing.marked_epoch
        start = marked if rewinds else dense_epochs
        sentence = f"{firing.reason}. {_cost(dense_epochs, marked, rewinds)}"
        described |= {"fired_epoch": dense_epochs, "marked_epoch": marked}
    described["reason"] = sentence
    return ForkPoint(run.pruned_at(start), dense_epochs, described, sentence)


def _loss_of(run: PrunedRun, trunk_result: Mapping[str, Any] | None) -> str:
    """Says how a trunk diverged or failed; an empty text where it did not."""
    status, trunk = (trunk_result or {}).get("status"), label(trunk_of(run))
    if trunk_result and status == "diverged":
        return f"{trunk} diverged in epoch {trunk_result['epoch']}"
    return (
        f"{trunk} failed: {trunk_result['reason']}" if trunk_result and status == "failed" else ""
    )


def _cost(fired: int, marked: int, rewinds: bool) -> str:
    late = fired - marked
    epochs = f"{late} epoch{'s' * (late != 1)}"
    if not late:
        return f"Pruned after epoch {fired}, at once."
    if rewinds:
        return f"Pruned the weights of epoch {marked}: {epochs} of dense training thrown away."
    return f"Pruned after epoch {fired}, {epochs} later than the one it marks, {marked}."
