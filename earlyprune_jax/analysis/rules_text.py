"""The table of signals and rules, as the terminal shows it."""

from collections.abc import Iterator, Sequence

from earlyprune_jax.analysis import formatting, peaks
from earlyprune_jax.analysis.curves import Curve, Setting
from earlyprune_jax.analysis.places import shared, varying
from earlyprune_jax.analysis.replay import Outcome, correlation
from earlyprune_jax.analysis.stats import Stats


def signals_table(
    pairs: Sequence[tuple[Setting, Curve | None]],
    outcomes: Sequence[Outcome],
    num_rules: int | None = None,
    baselines: Sequence[str] | None = None,
) -> Iterator[str]:
    """Writes one row per headline signal, and one per rule replayed on its curve.

    Args:
        pairs: settings, each with one of its curves if it has any.
        outcomes: of `replay_settings`.
        num_rules: how many of the best rules of each curve; None for all.
        baselines: the names of those shown; None for all.

    Yields:
        Lines; none without signals and rules.
    """
    places = [curve.place for _, curve in pairs if curve]
    axes, rows, is_cut = varying(places or [setting.place for setting, _ in pairs]), [], False
    for setting, curve in pairs:
        place = curve.place if curve else setting.place
        where = tuple(formatting.cell(axis, place.named.get(axis)) for axis in axes)
        replayed = [one for one in outcomes if one.curve is curve]
        names = [one.trigger for one in replayed if one.kind == "baseline"]
        every = [one for one in replayed if one.kind == "rule"]
        tried = every[:num_rules]
        is_cut |= len(tried) < len(every)
        kept = names if baselines is None else baselines
        shown = [one for one in replayed if one in tried or one.trigger in kept]
        rows += [(*where, *row) for row in (*_signal_rows(setting, curve), *map(_text_row, shown))]
    if not rows:
        return
    same = f" ({formatting.label(shared(places).kind.without(*axes))})" if places else ""
    yield formatting.wrapped(f"Signals along the dense runs, and rules replayed on them{same}:")
    headings = (*axes, "signal or rule", "epoch (seeds)", "forks", "remarks")
    yield formatting.aligned([headings, *rows])
    if any(setting.peaks for setting, _ in pairs) or places:
        notes = _notes(pairs, f"the best {num_rules}" * is_cut)
        yield formatting.wrapped(f"  {'; '.join(notes)}.")


def _notes(pairs: Sequence[tuple[Setting, Curve | None]], shown: str) -> Iterator[str]:
    """Explains the columns.

    Args:
        pairs: of `signals_table`.
        shown: which of the rules stand there; empty for all.

    Yields:
        Parts of a sentence.
    """
    if any(curve for _, curve in pairs):
        yield "rho: rank correlation with the forks' quality"
        regret = formatting.with_unit("regret", formatting.difference_unit(pairs[0][0].metric))
        yield f"{regret}: what is lost against each seed's best fork"
        yield "[baselines] look at no signal"
    if shown:
        yield f"of a curve's rules {shown} are shown, rules.csv has all"
    if any(setting.peaks for setting, _ in pairs):
        yield (
            "epoch: of a signal, the peak of its mean over seeds; in brackets the single seeds' "
            "peaks, outside of which it may lie"
        )


def _signal_rows(setting: Setting, curve: Curve | None) -> Iterator[tuple[str, ...]]:
    table, control = setting.signals, None

    def rho_text(mean: Stats | None) -> str:
        return f"rho {formatting.amount(mean, decimals=2)}" if mean else "-"

    for peak in setting.peaks:
        epochs = sorted(own.epoch for own in peaks.seed_peaks(table, peak.signal))
        measured = table.loc[table[peak.signal].notna(), "epoch"].nunique()
        every = table["epoch"].nunique()
        largest = "maximum" if peak.edge or peak.flat else "peak"
        parts = [
            f"{largest} {formatting.quantity(peak.value, peak.signal)}",
            f"{peak.edge} epoch: no peak" if peak.edge and measured > 1 else "",
            f"flat over {formatting.span(peak.plateau, '-')}"
            if peak.flat and not peak.edge
            else "",
            f"measured at {measured} of {every} epochs" if measured < every else "",
        ]
        rho = correlation(curve, peak.signal) if curve else None
        control = control or (rho and rho.epoch_itself)
        label = formatting.signal_label(peak.signal, setting.runs.config)
        where = f"{peak.epoch} ({formatting.span(epochs, '-')})"
        yield label, where, rho_text(rho and rho.over_seeds), ", ".join(filter(None, parts))
    if control:
        yield "epoch number itself", "-", rho_text(control), ""


def _text_row(outcome: Outcome) -> tuple[str, ...]:
    # A random time has no epoch of its own.
    has_epochs = outcome.epochs and outcome.trigger != "random time"
    where = formatting.span(outcome.epochs, "-") if has_epochs else "-"
    regret = f"regret {formatting.regret(outcome, unit=False)}" if outcome.num_evaluated else "-"
    return formatting.rule_name(outcome), where, regret, formatting.remarks(outcome)
