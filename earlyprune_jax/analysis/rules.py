"""Which rule would have chosen well? Any rule, replayed over any finished grid.

python -m earlyprune_jax.analysis.rules runs/digits --rule 'peak(fisher_trace, patience=5)'

Writes rules.csv (a row a curve, rule and mode), rule_choices.csv (a row a seed), signal_correlations.csv
and figures/rules.png and .svg (of several settings one each, named after it). In these files
accuracies, regrets and shares are fractions, and `fork_rule` is the learning-rate rule of the forks,
`trigger` the rule that chose the epoch.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import records, triggers
from earlyprune_jax.analysis import correlation, regret, results, rules_figure, rules_text
from earlyprune_jax.analysis.curves import Curve, Stats
from earlyprune_jax.analysis.regret import Choice, Grid, Outcome
from earlyprune_jax.analysis.runs import Run
from earlyprune_jax.triggers import EarlyBird, EarlyCrop, Peak, Plateau, Trigger
from earlyprune_jax.validate import InvalidInput, expected

CURVE_COLUMNS = (*results.SETTING, "criterion", "scope", "sparsity", "fork_rule")
NUMBERS = ("epoch", "test_accuracy", "regret", "saved_epochs")
RULE_COLUMNS = (
    *CURVE_COLUMNS,
    "trigger",
    "kind",
    "mode",
    "num_seeds",
    "num_evaluated",
    "num_outside",
    "num_diverged",
    "num_never_fired",
    "interpolated_share",
    *(f"{name}_{statistic}" for name in NUMBERS for statistic in ("mean", "std")),
)
CHOICE_COLUMNS = (
    *CURVE_COLUMNS,
    "trigger",
    "kind",
    "mode",
    "trunk_seed",
    "status",
    "fired_epoch",
    "marked_epoch",
    "epoch",
    "test_accuracy",
    "regret",
    "dense_epochs",
    "saved_epochs",
    "reason",
)
CORRELATION_COLUMNS = (
    *CURVE_COLUMNS,
    "signal",
    "spearman_mean",
    "spearman_std",
    "epoch_spearman_mean",
    "num_seeds",
    "num_epochs",
)


def replay(workdir: str | Path, rules: Iterable[str] | None = None) -> tuple[Outcome, ...]:
    """Replays rules, and the baselines, over a workdir's grid.

    Args:
        workdir: of an experiment with finished forks.
        rules: texts for `triggers.parse`; None = `default_rules`.

    Returns:
        The outcomes setting by setting and curve by curve, lowest mean regret first; see
        `regret.outcomes`. Empty where no fork has finished.

    Raises:
        InvalidInput: a rule cannot be used (every problem of every rule), or a file is damaged.

    Example:
        >>> replay("no/such/workdir")
        ()
    """
    config = results.read_config(workdir)
    grids = _grids(results.read_runs(workdir), config)
    own = None if rules is None else _parsed(rules, grids)
    return tuple(outcome for data in grids for outcome in replay_grid(data, config, own))


def write(workdir: str | Path, extra: Iterable[str] = (), *, runs: Sequence[Run] | None = None) -> list[Path]:
    """Replays the default rules and some more, and writes tables and figures.

    Args:
        workdir: an experiment's directory.
        extra: rules beside the default ones.
        runs: of `results.read_runs`, where they have been read already.

    Returns:
        The paths written; empty where no fork has finished.

    Raises:
        InvalidInput: as `replay`.

    Example:
        >>> write("no/such/workdir")
        []
    """
    config = results.read_config(workdir)
    runs = results.read_runs(workdir) if runs is None else runs
    grids = _grids(runs, config)
    if not any(data.curves for data in grids):
        return []
    more = _parsed(extra, grids)
    found = [outcome for data in grids for outcome in replay_grid(data, config, None, more)]
    related = [
        one for data in grids for curve in data.curves for one in correlation.correlations(data, curve)
    ]
    tables = {
        "rules.csv": (RULE_COLUMNS, map(_rule_row, found)),
        "rule_choices.csv": (
            CHOICE_COLUMNS,
            (_choice_row(one, seed) for one in found for seed in one.choices),
        ),
        "signal_correlations.csv": (CORRELATION_COLUMNS, map(_correlation_row, related)),
    }
    paths = []
    for name, (columns, rows) in tables.items():
        paths.append(Path(workdir) / name)
        records.replace_file(paths[-1], results.csv_text(columns, rows).encode())
    return paths + rules_figure.draw(workdir, found, several=len(results.by_setting(runs)) > 1)


def replay_grid(
    data: Grid, config: Mapping[str, Any], own: Sequence[Trigger] | None = None, extra: Sequence[Trigger] = ()
) -> tuple[Outcome, ...]:
    """The same from what has been read: `own` rules, or None for the default ones, after `extra` ones."""
    return tuple(
        outcome
        for curve in data.curves
        for outcome in regret.outcomes(
            data, curve, [*extra, *(default_rules(data, curve, config) if own is None else own)]
        )
    )


def default_rules(data: Grid, curve: Curve, config: Mapping[str, Any]) -> tuple[Trigger, ...]:
    """The rules worth trying with the columns that were measured, and the config's own.

    Peaks of the papers' signals, Early-Bird, EarlyCroP at the curve's sparsity, and plateaus of train
    and validation accuracy, each where its column exists.
    """
    candidates = (
        Peak("fisher_trace"),
        Peak("kl_uniform_bits"),
        Peak("random_distance"),
        *_early_birds(curve.sparsity),
        EarlyCrop(sparsity=curve.sparsity),
        Plateau("train_accuracy"),
        Plateau("validation_accuracy"),
    )
    own = config.get("fork", {}).get("trigger")
    # A config of another version may hold a text that this one cannot read: it is left out.
    configured = (triggers.parse(own),) if own and not triggers.check(own, data.columns) else ()
    usable = (rule for rule in candidates if set(rule.columns) <= set(data.columns))
    return (*configured, *usable)


def _early_birds(sparsity: float) -> tuple[EarlyBird, ...]:
    """The paper's threshold where a mask can miss it, and a tenth of what masks can differ by at most.

    Two masks of sparsity s differ on 2 min(s, 1 - s) of the weights at most: at s = 0.97 no mask is
    farther than 0.06 from another, and a threshold of 0.1 means "after epoch 5".
    """
    largest = 2 * min(sparsity, 1 - sparsity)
    thresholds = [0.1] if largest > 0.1 else []
    scaled = float(f"{largest / 10:.3g}")
    return tuple(EarlyBird(threshold=threshold) for threshold in dict.fromkeys([*thresholds, scaled]))


def _grids(runs: Iterable[Run], config: Mapping[str, Any]) -> list[Grid]:
    """One for each setting: trunks of two settings may share a seed."""
    return [regret.grid(own, config) for own in results.by_setting(runs).values()]


def _parsed(rules: Iterable[str], grids: Iterable[Grid]) -> tuple[Trigger, ...]:
    rules, columns = tuple(rules), tuple(dict.fromkeys(name for data in grids for name in data.columns))
    problems = [f"{text}: {problem}" for text in rules for problem in triggers.check(text, columns)]
    if problems:
        raise InvalidInput(problems)
    return tuple(triggers.parse(text) for text in rules)


def _curve_cells(curve: Curve) -> dict[str, Any]:
    setting, axes = curve.setting, (curve.criterion, curve.scope, curve.sparsity, curve.rule)
    cells = (setting.model, setting.train_fraction, setting.schedule, *axes)
    return dict(zip(CURVE_COLUMNS, cells, strict=True))


def _rule_row(outcome: Outcome) -> dict[str, Any]:
    interpolated, evaluated = outcome.count("interpolated"), outcome.num_evaluated
    row = {
        **_curve_cells(outcome.curve),
        "trigger": outcome.trigger,
        "kind": outcome.kind,
        "mode": outcome.mode,
        "num_seeds": len(outcome.choices),
        "num_evaluated": evaluated,
        "num_outside": outcome.count("outside"),
        "num_diverged": outcome.count("diverged"),
        "num_never_fired": outcome.count("never"),
        "interpolated_share": interpolated / evaluated if evaluated else None,
    }
    for name in NUMBERS:
        found = outcome.saved_epochs if name == "saved_epochs" else outcome.over_seeds(name)
        row |= {f"{name}_{key}": value for key, value in _mean_std(found).items()}
    return row


def _choice_row(outcome: Outcome, choice: Choice) -> dict[str, Any]:
    dense = choice.dense_epochs
    return {
        **_curve_cells(outcome.curve),
        "trigger": outcome.trigger,
        "kind": outcome.kind,
        "mode": outcome.mode,
        **{name: getattr(choice, name) for name in CHOICE_COLUMNS if hasattr(choice, name)},
        "saved_epochs": None if dense is None else outcome.num_epochs - dense,
    }


def _correlation_row(one: correlation.Correlation) -> dict[str, Any]:
    coefficients = {f"spearman_{key}": value for key, value in _mean_std(one.over_seeds).items()}
    return {
        **_curve_cells(one.curve),
        "signal": one.signal,
        **coefficients,
        "epoch_spearman_mean": _mean_std(one.epoch_itself)["mean"],
        "num_seeds": one.over_seeds.n if one.over_seeds else 0,
        "num_epochs": one.num_epochs,
    }


def _mean_std(found: Stats | None) -> dict[str, float | None]:
    return {"mean": found.mean if found else None, "std": found.std if found else None}


def _report(workdir: str, extra: Sequence[str]) -> str:
    """Writes the files, and gives the tables for the terminal."""
    runs, config = results.read_runs(workdir), results.read_config(workdir)
    grids = _grids(runs, config)
    if not any(data.curves for data in grids):
        remedy = "Rules are judged by measured forks."
        raise InvalidInput([expected("WORKDIR", workdir, "to hold finished forks", remedy)])
    more = _parsed(extra, grids)
    found = [outcome for data in grids for outcome in replay_grid(data, config, None, more)]
    parts = [rules_text.table(found), rules_text.correlation_tables(grids)]
    files = ", ".join(map(str, write(workdir, extra, runs=runs)))
    return "\n".join([*parts, f"Files: {files}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table and writes the files. Returns 0, or 2 where the input cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m earlyprune_jax.analysis.rules",
        description="Replay rules over a finished grid: what each would have chosen, and its regret.",
        epilog=f"Rules: {'; '.join(rule.example for rule in triggers.RULES.values())}.",
    )
    parser.add_argument("workdir", metavar="WORKDIR", help="an experiment's directory")
    parser.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="TEXT",
        help="a rule beside the default ones; repeatable",
    )
    flags = parser.parse_args(arguments)
    try:
        print(_report(flags.workdir, flags.rule))
    except InvalidInput as error:
        print("\n".join(f"- {problem}" for problem in error.problems), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
