"""What the signals did, in words: their maxima, and whether they told the good fork epochs from the bad."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from earlyprune_jax.analysis import correlation, labels, peaks, rules_text
from earlyprune_jax.analysis.curves import Curve, Stats
from earlyprune_jax.analysis.peaks import Peak
from earlyprune_jax.analysis.regret import Grid
from earlyprune_jax.analysis.runs import Run


def mean_peaks(runs: Sequence[Run]) -> list[Peak]:
    """The headline signals' peaks, of their means over the comparable trunks of one setting.

    Example:
        >>> mean_peaks([])
        []
    """
    rows = peaks.comparable_rows(runs)
    found = (peaks.mean_peak(rows, name) for name in peaks.headline_signals(rows))
    return [peak for peak in found if peak is not None]


def paragraphs(runs: Sequence[Run], config: Mapping[str, Any], found: Sequence[Peak]) -> Iterator[str]:
    """A line a headline signal: where it was largest, and whether that is a peak; then the others' names.

    Args:
        runs: of one setting.
        config: of `results.read_config`.
        found: what `mean_peaks` gives for these runs.
    """
    rows = peaks.comparable_rows(runs)
    if found:
        yield "Signals along the dense runs (mean over seeds):"
    for peak in found:
        epochs = sorted(own.epoch for own in peaks.seed_peaks(rows, peak.signal))
        seeds = f"; single seeds: {_range(epochs)}" if len(epochs) > 1 else ""
        seen, all_epochs = _num_measured(rows, peak.signal), len({row["epoch"] for row in rows})
        if seen == 1:
            only = f"{labels.quantity(peak.value, peak.signal)} at epoch {peak.epoch}, the only one measured"
            yield f"  {labels.signal_label(peak.signal, config)}: {only}."
            continue
        sparse = f"; measured at {seen} of {all_epochs} epochs" if seen < all_epochs else ""
        yield f"  {labels.signal_label(peak.signal, config)}: {_peak_text(peak)}{seeds}{sparse}."
    others = [name for name in peaks.main_signals(rows) if name not in peaks.headline_signals(rows)]
    if others:
        yield f"  Also in signals.csv: {', '.join(labels.signal_label(name, config) for name in others)}."


def _num_measured(rows: Sequence[Mapping[str, Any]], signal: str) -> int:
    return len({row["epoch"] for row in rows if row[signal] is not None})


def _peak_text(peak: Peak) -> str:
    value = labels.quantity(peak.value, peak.signal)
    if peak.edge == "last":
        text = f"largest at the last epoch, {peak.epoch} ({value}): an edge, so no peak was reached"
    elif peak.edge == "first":
        text = f"largest at the first epoch, {peak.epoch} ({value}): an edge, not an interior peak"
    else:
        text = f"{'maximum' if peak.flat else 'peak'} at epoch {peak.epoch} ({value})"
    if peak.flat:
        text += f"; flat, within 2 % of it over epochs {_range(peak.plateau)}"
    return text


def distance_sentence(best: int, mean_peaks: Sequence[Peak], config: Mapping[str, Any]) -> str:
    """How many epochs each signal's maximum lies from the best fork epoch."""
    words = []
    for peak in mean_peaks:
        distance = peak.epoch - best
        side = "after" if distance > 0 else "before" if distance < 0 else "at it"
        size = f"{abs(distance)} epoch{'s' * (abs(distance) != 1)} " if distance else ""
        caveat = " (an edge, no peak)" if peak.edge else " (flat)" if peak.flat else ""
        words.append(f"{labels.signal_label(peak.signal, config, short=True)} {size}{side}{caveat}")
    return f"Signal maxima relative to this epoch: {', '.join(words)}."


def correlation_sentence(
    curve: Curve, signals: Sequence[str], config: Mapping[str, Any], data: Grid
) -> str | None:
    """Which signal ranks the fork epochs as their accuracy does, and what the epoch number does."""
    found = [correlation.correlation(data, curve, signal) for signal in signals]
    known = [one for one in found if one.over_seeds]
    if not known:
        return None
    # Signals measured at other epochs than their neighbours rest on other forks.
    alike = len({one.num_epochs for one in known}) == 1
    words = []
    for one in known:
        control = "" if alike else f" (the epoch number {_rho(one.epoch_itself)})"
        words.append(f"{labels.signal_label(one.signal, config, short=True)} {_rho(one.over_seeds)}{control}")
    itself = f"; the epoch number itself {_rho(known[0].epoch_itself)}" if alike else ""
    return f"Rank correlation with fork accuracy: {', '.join(words)}{itself}."


def _rho(found: Stats | None) -> str:
    return rules_text.plus_minus(found, decimals=2)


def _range(epochs: Sequence[int]) -> str:
    return f"{epochs[0]}" if epochs[0] == epochs[-1] else f"{epochs[0]} to {epochs[-1]}"
