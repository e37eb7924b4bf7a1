"""What the signals did, in words: their maxima, their cost, and whether they told good fork epochs
apart."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import records
from earlyprune_jax.analysis import correlation, peaks, words
from earlyprune_jax.analysis.curves import Curve
from earlyprune_jax.analysis.peaks import Peak
from earlyprune_jax.analysis.regret import Grid
from earlyprune_jax.analysis.runs import Runs, Table
from earlyprune_jax.analysis.stats import Stats

NUM_NAMED = 3


def paragraphs(runs: Runs, found: Sequence[Peak]) -> Iterator[str]:
    """Writes a line per headline signal: where it was largest, and whether that is a peak; then
    others.

    Args:
        runs: of one setting.
        found: what `peaks.mean_peaks` gives for these runs.
    """
    table, config = peaks.comparable_epochs(runs), runs.config
    if found:
        yield "Signals along the dense runs (mean over seeds):"
    for peak in found:
        yield f"  {words.signal_label(peak.signal, config)}: {_told(peak, table)}."
    others = [
        name for name in peaks.main_signals([table]) if name not in peaks.headline_signals([table])
    ]
    if others:
        yield f"  Also in signals.csv: {', '.join(words.signal_label(name, config) for name in others)}."


def _told(peak: Peak, table: Table) -> str:
    epochs = sorted(own.epoch for own in peaks.seed_peaks(table, peak.signal))
    seeds = f"; single seeds: {words.span(epochs)}" if len(epochs) > 1 else ""
    measured = table.loc[table[peak.signal].notna(), "epoch"].nunique()
    all_epochs = table["epoch"].nunique()
    if measured == 1:
        return f"{words.quantity(peak.value, peak.signal)} at epoch {peak.epoch}, the only one measured"
    sparse = f"; measured at {measured} of {all_epochs} epochs" if measured < all_epochs else ""
    return f"{_peak_text(peak)}{seeds}{sparse}"


def _peak_text(peak: Peak) -> str:
    value = words.quantity(peak.value, peak.signal)
    if peak.edge == "last":
        text = f"largest at the last epoch, {peak.epoch} ({value}): an edge, so no peak was reached"
    elif peak.edge == "first":
        text = f"largest at the first epoch, {peak.epoch} ({value}): an edge, not an interior peak"
    else:
        text = f"{'maximum' if peak.flat else 'peak'} at epoch {peak.epoch} ({value})"
    if peak.flat:
        text += f"; flat, within 2 % of it over epochs {words.span(peak.plateau)}"
    return text


def distance_sentence(best: int, mean_peaks: Sequence[Peak], config: Mapping[str, Any]) -> str:
    """Says how many epochs each signal's maximum lies from the best fork epoch."""
    told = []
    for peak in mean_peaks:
        distance = peak.epoch - best
        side = "after" if distance > 0 else "before" if distance < 0 else "at it"
        size = f"{words.plural(abs(distance), 'epoch')} " if distance else ""
        caveat = " (an edge, no peak)" if peak.edge else " (flat)" if peak.flat else ""
        told.append(f"{words.signal_label(peak.signal, config, short=True)} {size}{side}{caveat}")
    return f"Signal maxima relative to this epoch: {', '.join(told)}."


def correlation_sentence(
    curve: Curve, signals: Sequence[str], config: Mapping[str, Any], data: Grid
) -> str | None:
    """Says which signal ranks the fork epochs as their quality does, and what the epoch number
    does."""
    found = [correlation.correlation(data, curve, signal) for signal in signals]
    known = [one for one in found if one.over_seeds]
    if not known:
        return None
    # Signals measured at other epochs than their neighbours rest on other forks.
    alike = len({one.num_epochs for one in known}) == 1
    told = []
    for one in known:
        control = "" if alike else f" (the epoch number {_rho(one.epoch_itself)})"
        told.append(
            f"{words.signal_label(one.signal, config, short=True)} {_rho(one.over_seeds)}{control}"
        )
    itself = f"; the epoch number itself {_rho(known[0].epoch_itself)}" if alike else ""
    name = curve.metric.name.replace("_", " ") if curve.metric.larger_is_better else "quality"
    return f"Rank correlation with fork {name}: {', '.join(told)}{itself}."


def _rho(found: Stats | None) -> str:
    return words.amount(found, decimals=2)


def read_budget(workdir: str | Path, runs: Runs) -> dict[str, Any]:
    """Reads what was decided for the trunks of some runs, or nothing where there was no limit.

    Args:
        workdir: of the experiment.
        runs: of one setting.
    """
    for trunk in runs.of_kind("trunk").frame["name"]:
        described = records.read_json(Path(workdir) / "trunks" / trunk / "run.json") or {}
        # A workdir of an earlier version has a file for each network and data fraction.
        name = f"{described.get('model')}_{described.get('train_fraction', 0):.10g}.json"
        path = described.get("signal_budget") or f"signal_budgets/{name}"
        return records.read_json(Path(workdir) / path) or {}
    return {}


def cost_sentence(runs: Runs, budget: Mapping[str, Any]) -> str | None:
    """Gives the signals' seconds over those of training, and what the budget left out; None if
    unrecorded.

    An epoch's seconds are the median over all trunks: the first epoch's also hold the compilation.
    A signal that is measured every k epochs counts k times less. The dearest signals are named.
    """
    return " ".join(filter(None, (_shares(runs), _subsampled(budget)))) or None


def _shares(runs: Runs) -> str:
    entries = [
        entry for name in runs.of_kind("trunk").frame["name"] for entry in runs.entries[name]
    ]
    timed = [
        entry
        for entry in entries
        if entry.get("train_seconds") and entry.get("signal_seconds") is not None
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
    named += (
        [f"the other {len(dearest) - NUM_NAMED} {_percent(rest / total)}"]
        if dearest[NUM_NAMED:]
        else []
    )
    return f"Signals took {_percent(sum(seconds.values()) / total)} of the training time ({', '.join(named)})."


def _subsampled(budget: Mapping[str, Any]) -> str:
    total, parts = budget.get("num_examples"), []
    for name, chosen in budget.get("signals", {}).items():
        fewer, every = chosen.get("num_examples"), chosen.get("every_epochs", 1)
        told = (
            [f"looked at {fewer} of {total} examples"]
            if fewer is not None and fewer != total
            else []
        )
        told += [f"was measured every {every} epochs"] if every > 1 else []
        parts += [f"{_label(name)} {' and '.join(told)}"] if told else []
    limit = budget.get("max_overhead_fraction", 0)
    return f"To stay within {_percent(limit)}, {'; '.join(parts)}." if parts else ""


def _label(name: str) -> str:
    return words.signal_label(name, {}, short=True)


def _percent(fraction: float) -> str:
    """Two digits at least below ten percent, so that little is not called nothing."""
    return f"{100 * fraction:.0f} %" if fraction >= 0.095 else f"{100 * fraction:.2g} %"
