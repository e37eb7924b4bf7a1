"""Which rule would have chosen well? Any rule, replayed over any finished grid.

python -m earlyprune_jax.analysis.rules runs/digits --rule 'peak(fisher_trace, patience=5)'

Writes rules.csv (one row per curve, rule and mode), rule_choices.csv (one row per seed),
signal_correlations.csv and figures/rules.png and .svg (of several settings one each, named after
it). In these files metrics are in their own unit, percents and shares as fractions, and a regret is
never negative; `retraining` is how the forks were retrained, `trigger` the rule that chose
the epoch.
"""

import argparse
import functools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import references, triggers, user_code
from earlyprune_jax.analysis import (
    correlation,
    publish,
    regret,
    results,
    rules_figure,
    rules_text,
    words,
)
from earlyprune_jax.analysis.curves import Curve
from earlyprune_jax.analysis.regret import Choice, Grid, Outcome
from earlyprune_jax.analysis.runs import Runs
from earlyprune_jax.analysis.stats import columns
from earlyprune_jax.triggers import EarlyBird, EarlyCrop, Peak, Plateau, Trigger
from earlyprune_jax.validate import InvalidInput, unexpected

MEAN_STD = ("mean", "std")
CHOICE = ("trunk_seed", "status", "fired_epoch", "marked_epoch", "epoch")


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
    grids = grids_of(results.read_runs(workdir))
    given = None if rules is None else _parsed(rules, grids)
    return replay_grids(grids, given)


def write(
    workdir: str | Path, extra: Iterable[str] = (), *, runs: Runs | None = None
) -> list[Path]:
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
    grids = grids_of(results.read_runs(workdir) if runs is None else runs)
    outcomes = replay_grids(grids, extra=_parsed(extra, grids))
    return _write(workdir, grids, outcomes) if outcomes else []


def _write(workdir: str | Path, grids: Sequence[Grid], outcomes: Sequence[Outcome]) -> list[Path]:
    correlations = [
        _correlation_row(one)
        for data in grids
        for curve in data.curves
        for one in correlation.correlations(data, curve)
    ]
    # Where nothing was measured along the trunks there is a header all the same.
    names = ("spearman_mean", "spearman_std", "epoch_spearman_mean", "num_seeds", "num_epochs")
    tables = (
        ([_rule_row(one) for one in outcomes], ()),
        ([_choice_row(one, choice) for one in outcomes for choice in one.choices], ()),
        (correlations, (*_curve_cells(outcomes[0].curve), "signal", *names)),
    )
    paths = [
        results.save(Path(workdir) / name, rows, header)
        for name, (rows, header) in zip(publish.RULE_TABLES, tables, strict=True)
    ]
    return paths + rules_figure.draw(workdir, outcomes, several=len(grids) > 1)


def grids_of(runs: Runs) -> list[Grid]:
    """Gathers what a replay needs, setting by setting: trunks of two settings may share a seed."""
    return [regret.grid(own) for own in results.by_setting(runs).values()]


def replay_grids(
    grids: Iterable[Grid], given: Sequence[Trigger] | None = None, extra: Sequence[Trigger] = ()
) -> tuple[Outcome, ...]:
    """Replays rules on what has been read.

    Args:
        grids: of `grids_of`.
        given: the rules; None for the default ones.
        extra: rules before these.

    Returns:
        As `replay`.
    """
    return tuple(
        outcome
        for data in grids
        for curve in data.curves
        for outcome in regret.outcomes(
            data, curve, [*extra, *(default_rules(data, curve) if given is None else given)]
        )
    )


def default_rules(data: Grid, curve: Curve) -> tuple[Trigger, ...]:
    """Gives the rules worth trying with the columns that were measured, and the config's own.

    Peaks of the papers' signals, Early-Bird, EarlyCroP at the curve's sparsity, and plateaus of the
    primary metric on train and validation data, each where its column exists.
    """
    sparsity, metric = curve.place["sparsity"], curve.metric
    # Two masks of sparsity s differ on 2 min(s, 1 - s) of the weights at most: at s = 0.97 the
    # paper's threshold of 0.1 could not be missed. A tenth of that most is tried too.
    largest = 2 * min(sparsity, 1 - sparsity)
    tenth = float(f"{largest / 10:.3g}")
    thresholds = [0.1, tenth] if tenth < 0.1 < largest else [tenth]
    candidates = (
        Peak("fisher_trace"),
        Peak("kl_uniform_bits"),
        Peak("random_distance"),
        *(EarlyBird(threshold=threshold) for threshold in thresholds),
        EarlyCrop(sparsity=sparsity),
        Plateau(metric.column("train")),
        Plateau(metric.column("validation")),
    )
    usable = (rule for rule in candidates if set(rule.columns) <= set(data.columns))
    return (*configured(data.runs, data.columns)[0], *usable)


def configured(runs: Runs, measured: Iterable[str]) -> tuple[tuple[Trigger, ...], str | None]:
    """Loads the config's own rule, fork.trigger, which may be code of the user's.

    Args:
        runs: of a workdir.
        measured: the columns there are.

    Returns:
        The rule, if it can be used. And a line that says why not, of code that cannot be loaded; a
        built-in rule that another version knew, or that looks at what was not measured, is left out
        silently.
    """
    text = runs.config.get("fork", {}).get("trigger")
    if not text:
        return (), None
    try:
        user_code.use_folder(runs.study.folder)
        problems = triggers.check(text, measured)
        if not problems:
            return (triggers.parse(text),), None
    except Exception as error:  # whatever code of the user's raises
        problems = [str(error)]
    is_own = ":" in text
    return (), f"The rule fork.trigger={text} is not replayed: {problems[0]}" if is_own else None


def notes(grids: Sequence[Grid], extra: Iterable[str] = ()) -> list[str]:
    """Says why the config's own rule is not replayed, which rules raised, and which code of the
    user's has changed meanwhile.

    Args:
        grids: of `grids_of`; where they hold no curve nothing is replayed, and nothing said.
        extra: rules beside the default ones.

    Returns:
        Sentences, a line each.
    """
    if not any(data.curves for data in grids):
        return []
    runs = grids[0].runs
    usable, problem = configured(runs, _columns(grids))
    texts = [*extra, *([runs.config["fork"]["trigger"]] if usable else [])]
    raised = {str(rule): why for data in grids for rule, why in data.raised.items()}
    return [
        *([problem] if problem else []),
        *_changed(runs, texts),
        *(f"{rule} raised {why}, and so counts as never firing." for rule, why in raised.items()),
    ]


def _changed(runs: Runs, texts: Iterable[str]) -> list[str]:
    """Names the code behind rules that is no longer what the runs were made with."""
    held = dict(runs.study.code)
    paths = [path for text in texts for path in references.import_paths(text) if path in held]
    if paths:
        user_code.use_folder(runs.study.folder)
    changed = []
    for path in dict.fromkeys(paths):
        try:
            changed += [path] if references.digest(path) != held[path] else []
        except InvalidInput:
            continue  # Code that cannot be loaded is not replayed.
    return [
        f"{path} has changed since these runs were made: its replay is of the code as it is now."
        for path in changed
    ]


def _columns(grids: Iterable[Grid]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for data in grids for name in data.columns))


def _parsed(rules: Iterable[str], grids: Sequence[Grid]) -> tuple[Trigger, ...]:
    rules = tuple(rules)
    if grids:
        user_code.use_folder(grids[0].runs.study.folder)
    measured = _columns(grids)
    problems = [
        f"{text}: {problem}" for text in rules for problem in triggers.check(text, measured)
    ]
    if problems:
        raise InvalidInput(problems)
    return tuple(map(triggers.parse, rules))


def _curve_cells(curve: Curve) -> dict[str, Any]:
    return dict(curve.place.items)


def _outcome_cells(outcome: Outcome) -> dict[str, Any]:
    rule = {"trigger": outcome.trigger, "kind": outcome.kind, "mode": outcome.mode}
    return _curve_cells(outcome.curve) | rule


def _rule_row(outcome: Outcome) -> dict[str, Any]:
    evaluated = outcome.num_evaluated
    mean_std = functools.partial(columns, parts=MEAN_STD)
    return {
        **_outcome_cells(outcome),
        "num_seeds": len(outcome.choices),
        "num_evaluated": evaluated,
        "num_outside": outcome.count("outside"),
        "num_diverged": outcome.count("diverged"),
        "num_never_fired": outcome.count("never"),
        "interpolated_share": outcome.count("interpolated") / evaluated if evaluated else None,
        **mean_std("epoch", outcome.over_seeds("epoch")),
        **mean_std(outcome.curve.metric.column("test"), outcome.over_seeds("test")),
        **mean_std("regret", outcome.over_seeds("regret")),
        **mean_std("saved_epochs", outcome.saved_epochs),
    }


def _choice_row(outcome: Outcome, choice: Choice) -> dict[str, Any]:
    dense = choice.dense_epochs
    return {
        **_outcome_cells(outcome),
        **{name: getattr(choice, name) for name in CHOICE},
        outcome.curve.metric.column("test"): choice.test,
        "regret": choice.regret,
        "dense_epochs": dense,
        "saved_epochs": None if dense is None else outcome.num_epochs - dense,
        "reason": choice.reason,
    }


def _correlation_row(one: correlation.Correlation) -> dict[str, Any]:
    return {
        **_curve_cells(one.curve),
        "signal": one.signal,
        **columns("spearman", one.over_seeds, MEAN_STD),
        "epoch_spearman_mean": one.epoch_itself.mean if one.epoch_itself else None,
        "num_seeds": one.over_seeds.n if one.over_seeds else 0,
        "num_epochs": one.num_epochs,
    }


def _report(workdir: str, extra: Sequence[str]) -> str:
    """Writes the files, and gives the tables for the terminal."""
    grids = grids_of(results.read_runs(workdir))
    if not any(data.curves for data in grids):
        remedy = "Rules are judged by measured forks."
        raise unexpected("WORKDIR", workdir, "to hold finished forks", remedy)
    outcomes = replay_grids(grids, extra=_parsed(extra, grids))
    parts = [
        rules_text.table(outcomes),
        rules_text.correlation_tables(grids),
        *notes(grids, extra),
        f"Files: {', '.join(map(str, _write(workdir, grids, outcomes)))}",
    ]
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table and writes the files. Returns 0, or 2 where the input cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m earlyprune_jax.analysis.rules",
        description="Replay rules over a grid: what each would have chosen, and its regret.",
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
    return words.answer(lambda: _report(flags.workdir, flags.rule))


if __name__ == "__main__":
    sys.exit(main())
