"""What measuring cost: each signal's part of the training time, and what was subsampled to keep it down."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import records
from earlyprune_jax.analysis import labels
from earlyprune_jax.analysis.runs import Run
from earlyprune_jax.spec import Setting

NUM_NAMED = 3


def read_budget(workdir: str | Path, setting: Setting) -> dict[str, Any]:
    """What was decided for a setting's network and data, or empty where there was no limit.

    Example:
        >>> read_budget("no/such/workdir", Setting("resnet8", 1.0, "cosine"))
        {}
    """
    return records.read_json(Path(workdir) / "signal_budgets" / f"{setting.network_slug}.json") or {}


def sentence(runs: Sequence[Run], budget: Mapping[str, Any]) -> str | None:
    """The signals' seconds over those of training, and what the budget left out; None if unrecorded.

    An epoch's seconds are the median over all trunks: the first epoch's also hold the compilation. A
    signal that is measured every k epochs counts k times less. The dearest signals are named.

    Example:
        >>> sentence([], {"max_overhead_fraction": 0.05, "num_examples": 500, "signals":
        ...     {"fisher_trace": {"num_examples": 100, "every_epochs": 1}}})
        'To stay within 5 %, tr(F) looked at 100 of 500 images.'
    """
    parts = [part for part in (_shares(runs), _subsampled(budget)) if part]
    return " ".join(parts) or None


def _shares(runs: Sequence[Run]) -> str:
    entries = [entry for run in runs if run.kind == "trunk" for entry in run.records]
    timed = [
        entry for entry in entries if entry.get("train_seconds") and entry.get("signal_seconds") is not None
    ]
    names = dict.fromkeys(name for entry in timed for name in entry["signal_seconds"])
    if not names:
        return ""
    total = len(timed) * statistics.median(entry["train_seconds"] for entry in timed)
    seconds: dict[str, float] = {}
    for name in names:
        spent = [entry["signal_seconds"].get(name) for entry in timed]
        known = [value for value in spent if value is not None]
        seconds[name] = len(known) * statistics.median(known) if known else 0.0
    dearest = sorted(seconds, key=lambda name: (-seconds[name], name))
    named = [f"{_label(name)} {_percent(seconds[name] / total)}" for name in dearest[:NUM_NAMED]]
    rest = sum(seconds[name] for name in dearest[NUM_NAMED:])
    named += [f"the other {len(dearest) - NUM_NAMED} {_percent(rest / total)}"] if dearest[NUM_NAMED:] else []
    return (
        f"Signals took {_percent(sum(seconds.values()) / total)} of the training time ({', '.join(named)})."
    )


def _subsampled(budget: Mapping[str, Any]) -> str:
    total, parts = budget.get("num_examples"), []
    for name, chosen in budget.get("signals", {}).items():
        fewer, every = chosen.get("num_examples"), chosen.get("every_epochs", 1)
        words = [f"looked at {fewer} of {total} images"] if fewer is not None and fewer != total else []
        words += [f"was measured every {every} epochs"] if every > 1 else []
        parts += [f"{_label(name)} {' and '.join(words)}"] if words else []
    limit = budget.get("max_overhead_fraction", 0)
    return f"To stay within {_percent(limit)}, {'; '.join(parts)}." if parts else ""


def _label(name: str) -> str:
    return labels.signal_label(name, {}, short=True)


def _percent(fraction: float) -> str:
    """Two digits at least below ten percent, so that little is not called nothing."""
    return f"{100 * fraction:.0f} %" if fraction >= 0.095 else f"{100 * fraction:.2g} %"
