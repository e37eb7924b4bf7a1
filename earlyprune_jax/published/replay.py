"""`python -m earlyprune_jax.published.replay`: rules replayed on the published curves, and their
regret.

    python -m earlyprune_jax.published.replay [--rule TEXT]... [--csv FOLDER]

A rule sees the signal of a curve's dense run. Regret, in points, is the curve's best accuracy less
the one at the chosen epoch, which is linear between the published fork epochs, 20 to 180 of 200,
and unknown outside of them. Always among the rules are `peak` with its defaults, pruned where it
fires (now) and where it marks (rewind), and what needs no rule:

- the largest value: of the signal, in hindsight;
- fixed 10 % to fixed 90 % of the 200 epochs;
- end: the last fork epoch, 180;
- random time: the mean over all whole epochs from 20 to 180, exactly.

The accuracies are of the published runs, best over their epochs and on test images. A rewound run
would have less epochs left than the published fork at the marked epoch had. Curves of one dense run
share its signal, so that 21 curves are 7 trials of a rule, not 21. `--csv` writes
published_rules.csv, a row a rule, and published_choices.csv, a row a rule and curve.
"""

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import triggers
from earlyprune_jax.analysis import formatting, results
from earlyprune_jax.analysis.replay import NEVER, Choice, Truth
from earlyprune_jax.published.curves import NUM_EPOCHS, SIGNALS, AccuracyCurve, accuracy_curves
from earlyprune_jax.triggers import Peak, Trigger
from earlyprune_jax.validate import answer

FIXED_PERCENT = range(10, 95, 5)
SUBSETS: Mapping[str, Callable[[AccuracyCurve], bool]] = {
    "cosine and linear": lambda curve: curve.dense.schedule != "exponential",
    "weight decay 5e-3": lambda curve: curve.dense.weight_decay == 5e-3,
}
"""Curves whose mean regret is told apart. The others are exponential with a smaller decay."""


@dataclasses.dataclass(frozen=True)
class Replayed:
    """What one rule chose on every curve with a signal.

    Attributes:
        signal: the column that the curves' dense runs have.
        rule: the canonical text, or the name of what needs no rule.
        mode: now or rewind.
        curves: of the signal, in the order of the figures.
        choices: one per curve; its regret is in points.
    """

    signal: str
    rule: str
    mode: str
    curves: tuple[AccuracyCurve, ...]
    choices: tuple[Choice, ...]

    def regrets(self, subset: str = "") -> list[float]:
        """Lists the regrets, in points, of the curves that have a value.

        Args:
            subset: of `SUBSETS`; empty for all curves.
        """
        return [
            choice.regret
            for curve, choice in zip(self.curves, self.choices, strict=True)
            if choice.regret is not None and (not subset or SUBSETS[subset](curve))
        ]


def replay(signal: str, rules: Iterable[Trigger] = ()) -> tuple[Replayed, ...]:
    """Replays rules on the published curves whose dense run has a signal.

    Args:
        signal: fisher_trace (21 curves) or kl_uniform_bits (3).
        rules: those that look at another column are left out. `peak` is replayed always.

    Returns:
        The rules, each now and where it looks back rewound, then what needs none.

    Example:
        >>> largest = replay("fisher_trace")[2]
        >>> regrets = largest.regrets()
        >>> largest.rule, len(regrets), round(sum(regrets) / len(regrets), 2)
        ('largest value', 21, 0.78)
    """
    choosers: dict[tuple[str, str], Callable[[AccuracyCurve, Truth], Choice]] = {}
    for rule in dict.fromkeys((*rules, Peak(signal))):
        if {signal}.issuperset(rule.columns):
            for mode in ("now", "rewind")[: 1 + rule.looks_back]:
                choosers[str(rule), mode] = _follower(rule, mode)
    choosers["largest value", "now"] = lambda curve, truth: truth.choose(_largest(curve))
    for percent in FIXED_PERCENT:
        choosers[f"fixed {percent} %", "now"] = _fixed(percent * NUM_EPOCHS // 100)
    choosers["end", "now"] = lambda curve, truth: truth.choose(curve.fork_epochs[-1])
    choosers["random time", "now"] = lambda curve, truth: truth.choose_at_random()
    curves = accuracy_curves(signal)
    return tuple(
        Replayed(signal, *names, curves, tuple(choose(curve, _truth(curve)) for curve in curves))
        for names, choose in choosers.items()
    )


def _truth(curve: AccuracyCurve) -> Truth:
    return Truth(0, dict(zip(curve.fork_epochs, curve.accuracies, strict=True)))


def _largest(curve: AccuracyCurve) -> int:
    return curve.dense.peak_epoch or 0


def _fixed(epoch: int) -> Callable[[AccuracyCurve, Truth], Choice]:
    return lambda curve, truth: truth.choose(epoch)


def _follower(rule: Trigger, mode: str) -> Callable[[AccuracyCurve, Truth], Choice]:
    return lambda curve, truth: truth.follow(rule(curve.dense.history) or NEVER, mode)


def rule_rows(replayed: Iterable[Replayed]) -> Iterator[dict[str, Any]]:
    """Yields a row per rule: how many curves have a value, and their regrets in points."""
    for one in replayed:
        regrets = one.regrets()
        row = {"signal": one.signal, "rule": one.rule, "mode": one.mode, "n": len(regrets)}
        row["num_never_fired"] = sum(choice.status == "never" for choice in one.choices)
        row["num_outside"] = sum(choice.status == "outside" for choice in one.choices)
        row |= {"regret_mean": _mean(regrets)}
        row["regret_median"] = round(statistics.median(regrets), 4) if regrets else None
        row["regret_worst"] = round(max(regrets), 4) if regrets else None
        for name in SUBSETS:
            row[f"{name}: n"] = len(one.regrets(name))
            row[f"{name}: regret_mean"] = _mean(one.regrets(name))
        yield row


def _mean(values: Sequence[float]) -> float | None:
    return round(statistics.fmean(values), 4) if values else None


def choice_rows(replayed: Iterable[Replayed]) -> Iterator[dict[str, Any]]:
    """Yields a row per rule and curve."""
    for one in replayed:
        for curve, choice in zip(one.curves, one.choices, strict=True):
            best = max(zip(curve.accuracies, curve.fork_epochs, strict=True), key=lambda x: x[0])
            yield {
                "signal": one.signal,
                "rule": one.rule,
                "mode": one.mode,
                "panels": " ".join(curve.panels),
                **{
                    name: getattr(curve.dense, name)
                    for name in ("dataset", "schedule", "weight_decay", "num_seeds")
                },
                "criterion": curve.criterion,
                "scope": curve.scope,
                "sparsity": curve.sparsity,
                "dense_accuracy": curve.dense.accuracy,
                "best_fork_epoch": best[1],
                "best_accuracy": best[0],
                "largest_epoch": curve.dense.peak_epoch,
                "fired_epoch": choice.fired_epoch,
                "marked_epoch": choice.marked_epoch,
                "status": choice.status,
                "epoch": choice.epoch,
                "accuracy": None if choice.test is None else round(choice.test, 4),
                "regret": None if choice.regret is None else round(choice.regret, 4),
            }


def table(replayed: Sequence[Replayed]) -> str:
    """Writes one signal's rules for the terminal: mean, median and worst regret, in points."""
    headings = ("rule", "n", "mean", "median", "worst", *SUBSETS, "without a value")
    rows: list[Sequence[str]] = [headings]
    for one, row in zip(replayed, rule_rows(replayed), strict=True):
        name = f"{triggers.label(one.rule)}{', rewind' if one.mode == 'rewind' else ''}"
        numbers = [row["regret_mean"], row["regret_median"], row["regret_worst"]]
        subsets = [(row[f"{name}: regret_mean"], row[f"{name}: n"]) for name in SUBSETS]
        without = {"never fired": row["num_never_fired"], "outside": row["num_outside"]}
        rows.append(
            (
                name,
                str(row["n"]),
                *("-" if number is None else f"{number:.2f}" for number in numbers),
                *(f"{mean:.2f} (n = {n})" if n else "-" for mean, n in subsets),
                ", ".join(f"{count} {why}" for why, count in without.items() if count),
            )
        )
    label, curves = formatting.signal_label(replayed[0].signal, {}, short=True), replayed[0].curves
    runs = len({curve.dense for curve in curves})
    title = f"{label}: regret in points on {len(curves)} published curves of {runs} dense runs"
    return f"{title}\n\n{formatting.aligned(rows)}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables. Returns 0, or 2 where a rule cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m earlyprune_jax.published.replay",
        description="Replay rules on the published curves of paper A: what each would have lost.",
    )
    parser.add_argument("--rule", action="append", default=[], metavar="TEXT", help="repeatable")
    parser.add_argument("--csv", metavar="FOLDER", help="write the tables there")
    flags = parser.parse_args(arguments)

    def report() -> str:
        rules = [triggers.parse(text, SIGNALS.values()) for text in flags.rule]
        replayed = [replay(signal, rules) for signal in SIGNALS.values()]
        if flags.csv:
            every = [one for some in replayed for one in some]
            results.save(Path(flags.csv) / "published_rules.csv", rule_rows(every))
            results.save(Path(flags.csv) / "published_choices.csv", choice_rows(every))
        return "\n".join(map(table, replayed))

    return answer(report)


if __name__ == "__main__":
    sys.exit(main())
