"""Which rule would have chosen well? Any rule, replayed over any finished grid.

python -m earlyprune_jax.analysis.rules runs/digits --rule 'peak(fisher_trace, patience=5)'

Writes rules.csv (a row per curve, rule and mode), rule_choices.csv (a row per seed),
signal_correlations.csv and figures/rules.png and .svg (of several settings one each, named after
it). In these files metrics are in their own unit, percents and shares as fractions, and a regret is
never negative; `fork_rule` is the learning-rate rule of the forks, `trigger` the rule that chose
the epoch.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import references, triggers
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
from earlyprune_jax.analysis.stats import Stats
from earlyprune_jax.metrics import Metric
from earlyprune_jax.triggers import EarlyBird, EarlyCrop, Peak, Plateau, Trigger
from earlyprune_jax.validate import InvalidInput, unexpected

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
    runs = results.read_runs(workdir)
    grids = grids_of(runs)
    own = None if rules is None else _parsed(rules, grids, runs)
    return tuple(outcome for data in grids for outcome in replay_grid(data, runs, own))


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
    runs = results.read_runs(workdir) if runs is None else runs
    grids = grids_of(runs)
    if not any(data.curves for data in grids):
        return []
    more = _parsed(extra, grids, runs)
    found = [outcome for data in grids for outcome in replay_grid(data, runs, None, more)]
    return _write(workdir, runs, grids, found)


def _write(
    workdir: str | Path, runs: Runs, grids: Sequence[Grid], found: Sequence[Outcome]
) -> list[Path]:
    place = _curve_cells(found[0].curve)
    related = [
        _correlation_row(one)
        for data in grids
        for curve in data.curves
        for one in correlation.correlations(data, curve)
    ]
    names = ("spearman_mean", "spearman_std", "epoch_spearman_mean", "num_seeds", "num_epochs")
    tables = (
        ([_rule_row(one) for one in found], ()),
        ([_choice_row(one, choice) for one in found for choice in one.choices], ()),
        (related, (*place, "signal", *names)),
    )
    paths = [
        results.save(Path(workdir) / name, rows, columns)
        for name, (rows, columns) in zip(publish.RULES.tables, tables, strict=True)
    ]
    return paths + rules_figure.draw(workdir, found, several=len(results.by_setting(runs)) > 1)


def replay_grid(
    data: Grid, runs: Runs, own: Sequence[Trigger] | None = None, extra: Sequence[Trigger] = ()
) -> tuple[Outcome, ...]:
    """Replays on what has been read: `own` rules, or None for the default ones, after `extra`
    ones."""
    return tuple(
        outcome
        for curve in data.curves
        for outcome in regret.outcomes(
            data, curve, [*extra, *(default_rules(data, curve, runs) if own is None else own)]
        )
    )


def default_rules(data: Grid, curve: Curve, runs: Runs) -> tuple[Trigger, ...]:
    """Gives the rules worth trying with the columns that were measured, and the config's own.

    Peaks of the papers' signals, Early-Bird, EarlyCroP at the curve's sparsity, and plateaus of the
    primary metric on train and validation data, each where its column exists.
    """
    sparsity = curve.place["sparsity"]
    candidates = (
        Peak("fisher_trace"),
        Peak("kl_uniform_bits"),
        Peak("random_distance"),
        *_early_birds(sparsity),
        EarlyCrop(sparsity=sparsity),
        Plateau(runs.metric.column("train")),
        Plateau(runs.metric.column("validation")),
    )
    usable = (rule for rule in candidates if set(rule.columns) <= set(data.columns))
    return (*configured(runs, data.columns)[0], *usable)


def configured(runs: Runs, columns: Iterable[str]) -> tuple[tuple[Trigger, ...], str | None]:
    """Loads the config's own rule, fork.trigger, which may be code of the user's.

    Args:
        runs: of a workdir.
        columns: that were measured.

    Returns:
        The rule, if it can be used. And a line that says why not, of code that cannot be loaded; a
        built-in rule that another version knew, or that looks at what was not measured, is left out
        silently.
    """
    text = runs.config.get("fork", {}).get("trigger")
    if not text:
        return (), None
    try:
        references.use_folder(runs.study.folder)
        problems = triggers.check(text, columns)
        if not problems:
            return (triggers.parse(text),), None
    except Exception as error:  # whatever code of the user's raises
        problems = [str(error)]
    is_own = ":" in text
    return (), f"The rule fork.trigger={text} is not replayed: {problems[0]}" if is_own else None


def notes(runs: Runs, grids: Sequence[Grid], extra: Iterable[str] = ()) -> list[str]:
    """Says why the config's own rule is not replayed, and which code of the user's has changed
    meanwhile.

    Args:
        runs: of a workdir.
        grids: of `grids_of`; where they hold no curve nothing is replayed, and nothing said.
        extra: rules beside the default ones.

    Returns:
        Sentences, a line each.
    """
    if not any(data.curves for data in grids):
        return []
    own, problem = configured(runs, dict.fromkeys(name for data in grids for name in data.columns))
    replayed = [runs.config["fork"]["trigger"]] if own else []
    raised = {str(rule): why for data in grids for rule, why in data.raised.items()}
    lines = [problem, _changed_note(runs, [*replayed, *extra])]
    lines += [
        f"{rule} raised {why}, and so counts as never firing." for rule, why in raised.items()
    ]
    return [line for line in lines if line]


def _changed_note(runs: Runs, texts: Iterable[str]) -> str | None:
    """Names the code behind rules that is no longer what the runs were made with."""
    held = dict(runs.study.code)
    paths = dict.fromkeys(
        path for text in texts for path in references.import_paths(text) if path in held
    )
    if not paths:
        return None
    references.use_folder(runs.study.folder)
    changed = [path for path in paths if _digest(path) not in (None, held[path])]
    if not changed:
        return None
    has, replays = ("has", "its replay is") if len(changed) == 1 else ("have", "their replays are")
    since = f"{has} changed since these runs were made"
    return f"{words.listed(changed)} {since}: {replays} of the code as it is now."


def _digest(path: str) -> str | None:
    """The digest of code as it is now; None of code that cannot be loaded."""
    try:
        return references.digest(path)
    except InvalidInput:
        return None


def _early_birds(sparsity: float) -> tuple[EarlyBird, ...]:
    """The paper's threshold where a mask can miss it, and a tenth of what masks can differ by at
    most.

    Two masks of sparsity s differ on 2 min(s, 1 - s) of the weights at most: at s = 0.97 no mask is
    farther than 0.06 from another, and a threshold of 0.1 means "after epoch 5".
    """
    largest = 2 * min(sparsity, 1 - sparsity)
    thresholds = [0.1] if largest > 0.1 else []
    scaled = float(f"{largest / 10:.3g}")
    return tuple(
        EarlyBird(threshold=threshold) for threshold in dict.fromkeys([*thresholds, scaled])
    )


def grids_of(runs: Runs) -> list[Grid]:
    """Gathers what a replay needs, setting by setting: trunks of two settings may share a seed."""
    return [regret.grid(own) for own in results.by_setting(runs).values()]


def _parsed(rules: Iterable[str], grids: Iterable[Grid], runs: Runs) -> tuple[Trigger, ...]:
    rules, columns = (
        tuple(rules),
        tuple(dict.fromkeys(name for data in grids for name in data.columns)),
    )
    references.use_folder(runs.study.folder)
    problems = [f"{text}: {problem}" for text in rules for problem in triggers.check(text, columns)]
    if problems:
        raise InvalidInput(problems)
    return tuple(triggers.parse(text) for text in rules)


def _curve_cells(curve: Curve) -> dict[str, Any]:
    return {("fork_rule" if axis == "rule" else axis): value for axis, value in curve.place.items}


def _outcome_cells(outcome: Outcome) -> dict[str, Any]:
    own = {"trigger": outcome.trigger, "kind": outcome.kind, "mode": outcome.mode}
    return _curve_cells(outcome.curve) | own


def _rule_row(outcome: Outcome) -> dict[str, Any]:
    interpolated, evaluated = outcome.count("interpolated"), outcome.num_evaluated
    row = {
        **_outcome_cells(outcome),
        "num_seeds": len(outcome.choices),
        "num_evaluated": evaluated,
        "num_outside": outcome.count("outside"),
        "num_diverged": outcome.count("diverged"),
        "num_never_fired": outcome.count("never"),
        "interpolated_share": interpolated / evaluated if evaluated else None,
    }
    numbers = {
        "epoch": outcome.over_seeds("epoch"),
        _test(outcome): outcome.over_seeds("test"),
        "regret": outcome.over_seeds("regret"),
        "saved_epochs": outcome.saved_epochs,
    }
    for name, found in numbers.items():
        row |= _mean_std(name, found)
    return row


def _choice_row(outcome: Outcome, choice: Choice) -> dict[str, Any]:
    dense = choice.dense_epochs
    return {
        **_outcome_cells(outcome),
        **{name: getattr(choice, name) for name in CHOICE},
        _test(outcome): choice.test,
        "regret": choice.regret,
        "dense_epochs": dense,
        "saved_epochs": None if dense is None else outcome.num_epochs - dense,
        "reason": choice.reason,
    }


def _test(outcome: Outcome) -> str:
    metric: Metric = outcome.curve.metric
    return metric.column("test")


def _correlation_row(one: correlation.Correlation) -> dict[str, Any]:
    return {
        **_curve_cells(one.curve),
        "signal": one.signal,
        **_mean_std("spearman", one.over_seeds),
        "epoch_spearman_mean": one.epoch_itself.mean if one.epoch_itself else None,
        "num_seeds": one.over_seeds.n if one.over_seeds else 0,
        "num_epochs": one.num_epochs,
    }


def _mean_std(name: str, found: Stats | None) -> dict[str, float | None]:
    return {
        f"{name}_mean": found.mean if found else None,
        f"{name}_std": found.std if found else None,
    }


def _report(workdir: str, extra: Sequence[str]) -> str:
    """Writes the files, and gives the tables for the terminal."""
    runs = results.read_runs(workdir)
    grids = grids_of(runs)
    if not any(data.curves for data in grids):
        remedy = "Rules are judged by measured forks."
        raise unexpected("WORKDIR", workdir, "to hold finished forks", remedy)
    more = _parsed(extra, grids, runs)
    found = [outcome for data in grids for outcome in replay_grid(data, runs, None, more)]
    parts = [
        rules_text.table(found),
        rules_text.correlation_tables(grids),
        *notes(runs, grids, extra),
    ]
    files = ", ".join(map(str, _write(workdir, runs, grids, found)))
    return "\n".join([*filter(None, parts), f"Files: {files}"])


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
