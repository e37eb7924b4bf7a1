"""Where a pruned run leaves its trunk: at a planned epoch, or where the trunk's trigger fired."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from earlyprune_jax import triggers
from earlyprune_jax.grid.members import Fork, Online, Pruned, label, trunk_of
from earlyprune_jax.spec import RunSpec
from earlyprune_jax.triggers import Trigger


@dataclasses.dataclass(frozen=True)
class Departure:
    """From which weights a pruned run starts, and how many dense epochs they have cost.

    Attributes:
        fork: the run as a fork of its trunk; None where there is nothing to start from.
        dense_epochs: epochs the trunk has trained by then. The learning-rate rule, and the length
            of what is left, follow from these; with a rewind they are more than the weights' epoch.
        described: what run.json says of the decision.
        sentence: the decision in words, or why there is no run.
    """

    fork: Fork | None
    dense_epochs: int
    described: dict[str, Any]
    sentence: str


def stopping_rule(spec: RunSpec) -> Trigger | None:
    """What ends a trunk that prunes itself: the configured rule, or the fallback epoch."""
    if spec.fork.when == "epochs":
        return None
    rule = triggers.parse(spec.fork.trigger)
    fallback = spec.fork.fallback_epoch
    return triggers.First((rule, triggers.AtEpoch(fallback))) if fallback else rule


def departure(
    spec: RunSpec,
    member: Pruned,
    ended: Mapping[str, Any] | None,
    history: Sequence[Mapping[str, Any]],
) -> Departure:
    """Decides from how the trunk ended.

    Args:
        spec: of the member's setting.
        member: a fork of the grid, or a run that prunes itself.
        ended: the trunk's result.json; None while it is unfinished.
        history: the trunk's records, flat.
    """
    if isinstance(member, Fork):
        return _planned(spec, member, ended)
    rule = triggers.parse(spec.fork.trigger)
    stopped = (ended or {}).get("fired")
    described = {
        "trigger": str(rule),
        "mode": spec.fork.prune_at,
        "fired_epoch": None,
        "marked_epoch": None,
    }
    if not stopped:
        return Departure(None, 0, described, _why_dense(spec, rule, member, ended))
    dense_epochs = stopped["epoch"]
    firing = rule(history)
    if firing is None:
        sentence = f"{rule} had not fired by fork.fallback_epoch={dense_epochs}: pruned there."
        described |= {"reason": sentence}
        return Departure(member.pruned_at(dense_epochs), dense_epochs, described, sentence)
    marked = firing.marked_epoch
    rewinds = spec.fork.prune_at == "rewind"
    sentence = f"{firing.reason}. {_cost(dense_epochs, marked, rewinds)}"
    described |= {"fired_epoch": dense_epochs, "marked_epoch": marked, "reason": sentence}
    return Departure(
        member.pruned_at(marked if rewinds else dense_epochs), dense_epochs, described, sentence
    )


def _planned(spec: RunSpec, fork: Fork, ended: Mapping[str, Any] | None) -> Departure:
    """A fork of the grid starts unless its trunk never got there."""
    lost = _why_lost(spec, fork, ended)
    # The last epoch of a run that diverged or failed left nothing behind.
    if lost and ended and ended["epoch"] <= fork.fork_epoch:
        return Departure(None, fork.fork_epoch, {}, lost)
    return Departure(fork, fork.fork_epoch, {}, "")


def _why_lost(spec: RunSpec, member: Pruned, ended: Mapping[str, Any] | None) -> str:
    """How a trunk came to a bad end; nothing where it did not."""
    if not ended or ended["status"] not in ("diverged", "failed"):
        return ""
    name = label(trunk_of(member))
    if ended["status"] == "diverged":
        return f"{name} diverged in epoch {ended['epoch']}"
    return f"{name} failed: {ended['reason']}"


def _cost(fired: int, marked: int, rewinds: bool) -> str:
    late = fired - marked
    epochs = f"{late} epoch{'s' * (late != 1)}"
    if not late:
        return f"Pruned after epoch {fired}, at once."
    if rewinds:
        return f"Pruned the weights of epoch {marked}: {epochs} of dense training thrown away."
    return f"Pruned after epoch {fired}, {epochs} later than the one it marks, {marked}."


def _why_dense(
    spec: RunSpec, rule: Trigger, member: Online, ended: Mapping[str, Any] | None
) -> str:
    return _why_lost(spec, member, ended) or (
        f"{rule} did not fire before the last of {spec.train.num_epochs} epochs, and "
        "fork.fallback_epoch=0: nothing was pruned"
    )
