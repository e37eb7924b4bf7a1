"""Which rule would have chosen well? Any rule, replayed over any finished grid.

earlyprune rules runs/digits --rule 'peak(fisher_trace, smoothing=5)'

Writes rules.csv (one row per curve, rule and mode), rule_choices.csv (one row per seed),
signal_correlations.csv and figures/rules.png and .svg (of several settings one each, named after
it). In these files metrics are in their own unit, percents and shares as fractions, and a regret is
never negative; `retraining` is how the forks were retrained, `trigger` the rule that chose
the epoch.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import records, references, triggers, user_code
from earlyprune_jax.analysis import formatting, results, rules_figure, rules_text
from earlyprune_jax.analysis.curves import Curve, Setting, all_curves, settings_of
from earlyprune_jax.analysis.replay import NEVER, Correlation, Outcome, correlations, outcomes
from earlyprune_jax.analysis.runs import Runs, Table
from earlyprune_jax.analysis.stats import columns
from earlyprune_jax.triggers import EarlyBird, EarlyCrop, Peak, Plateau, Trigger
from earlyprune_jax.validate import InvalidInput, answer, unexpected

MEAN_STD = ("mean", "std")


def replay(workdir: str | Path, rules: Iterable[str] | None = None) -> tuple[Outcome, ...]:
    """Replays rules, and the baselines, over a workdir's grid.

    Args:
        workdir: of an experiment with finished forks.
        rules: texts for `triggers.parse`; None = `default_rules`.

    Returns:
        The outcomes setting by setting and curve by curve, lowest mean regret first; see
        `replay.outcomes`. Empty where no fork has finished.

    Raises:
        InvalidInput: a rule cannot be used (every problem of every rule), or a file is damaged.

    Example:
        >>> replay("no/such/workdir")
        ()
    """
    settings = settings_of(results.read_runs(workdir))
    return replay_settings(settings, None if rules is None else _parsed(rules, settings))


def table(workdir: str | Path, rules: Iterable[str] | None = None) -> Table:
    """Tables what `replay` finds: one row per rule and curve, with the columns of rules.csv.

    A rule is named for readers, without options at their defaults; rules.csv has them all.

    Args:
        workdir: of an experiment with finished forks.
        rules: texts for `triggers.parse`; None = `default_rules`.

    Returns:
        The table, lowest mean regret first; without columns where no fork has finished.

    Raises:
        InvalidInput: as `replay`.

    Example:
        >>> len(table("no/such/workdir"))
        0
    """
    import pandas as pd

    replayed = replay(workdir, rules)
    return pd.DataFrame([_rule_row(one) | {"trigger": one.label} for one in replayed])


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
    settings = settings_of(results.read_runs(workdir) if runs is None else runs)
    return _write(workdir, replay_settings(settings, extra=_parsed(extra, settings)))


def _write(workdir: str | Path, replayed: Sequence[Outcome]) -> list[Path]:
    if not replayed:
        return []
    curves = list(dict.fromkeys(one.curve for one in replayed))
    correlated = [one for curve in curves for one in correlations(curve)]
    # Where nothing was measured along the trunks there is a header all the same.
    names = ("spearman_mean", "spearman_std", "epoch_spearman_mean", "num_seeds", "num_epochs")
    tables = (
        ([_rule_row(one) for one in replayed], ()),
        ([row for one in replayed for row in _choice_rows(one)], ()),
        (map(_correlation_row, correlated), (*curves[0].place.axes, "signal", *names)),
    )
    paths = [
        results.save(Path(workdir) / name, rows, header)
        for name, (rows, header) in zip(results.RULE_TABLES, tables, strict=True)
    ]
    return paths + rules_figure.draw(workdir, replayed)


def replay_settings(
    settings: Iterable[Setting],
    given: Sequence[Trigger] | None = None,
    extra: Sequence[Trigger] = (),
) -> tuple[Outcome, ...]:
    """Replays rules on what has been read.

    Args:
        settings: of `curves.settings_of`.
        given: the rules; None for the default ones.
        extra: rules before these.

    Returns:
        As `replay`.
    """
    replayed: list[Outcome] = []
    for curve in all_curves(settings):
        rules = default_rules(curve) if given is None else given
        replayed += outcomes(curve, [*extra, *rules])
    return tuple(replayed)


def default_rules(curve: Curve) -> tuple[Trigger, ...]:
    """Returns the rules worth trying with the columns that were measured, and the config's own.

    Peaks of the papers' signals, Early-Bird, EarlyCroP at the curve's sparsity, and plateaus of the
    primary metric on train and validation data, each where its column exists.
    """
    sparsity, metric, measured = curve.place["sparsity"], curve.metric, curve.setting.columns
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
    usable = (rule for rule in candidates if set(rule.columns) <= set(measured))
    return (*configured(curve.setting.runs, measured)[0], *usable)


def configured(runs: Runs, measured: Iterable[str]) -> tuple[tuple[Trigger, ...], list[str]]:
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
        return (), []
    try:
        user_code.use_folder(runs.study.folder)
        problems = triggers.check(text, measured)
        if not problems:
            return (triggers.parse(text),), []
    except Exception as error:  # whatever code of the user's raises
        problems = [str(error)]
    rule, is_own = triggers.label(text), ":" in text
    return (), [f"The rule fork.trigger={rule} is not replayed: {problems[0]}"] * is_own


def notes(settings: Sequence[Setting], replayed: Sequence[Outcome]) -> list[str]:
    """Says why the config's own rule is not replayed, which rules raised, and which code of the
    user's has changed meanwhile.

    Args:
        settings: of `curves.settings_of`.
        replayed: what became of the rules; nothing is said without.

    Returns:
        Sentences, a line each.
    """
    if not replayed:
        return []
    runs = settings[0].runs
    _, lines = configured(runs, _columns(settings))
    rules = dict.fromkeys(one.trigger for one in replayed if one.kind == "rule")
    code = dict(runs.study.code)
    for path in dict.fromkeys(path for rule in rules for path in references.import_paths(rule)):
        if path in code and user_code.digest(path) != code[path]:
            since = "has changed since these runs were made: its replay is of the code as it is now"
            lines.append(f"{path} {since}.")
    raised = {
        one.label: choice.reason
        for one in replayed
        for choice in one.choices
        if choice.status == "never" and choice.reason != NEVER
    }
    return lines + [
        f"{rule} raised {why}, and so counts as never firing." for rule, why in raised.items()
    ]


def _columns(settings: Iterable[Setting]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for setting in settings for name in setting.columns))


def _parsed(rules: Iterable[str], settings: Sequence[Setting]) -> tuple[Trigger, ...]:
    rules = tuple(rules)
    if settings:
        user_code.use_folder(settings[0].runs.study.folder)
    measured = _columns(settings)
    problems = [
        f"{text}: {problem}" for text in rules for problem in triggers.check(text, measured)
    ]
    if problems:
        raise InvalidInput(problems)
    return tuple(map(triggers.parse, rules))


def _identity(outcome: Outcome) -> dict[str, Any]:
    rule = {"trigger": outcome.trigger, "kind": outcome.kind, "mode": outcome.mode}
    return outcome.curve.place.named | rule


def _rule_row(outcome: Outcome) -> dict[str, Any]:
    evaluated = outcome.num_evaluated
    row = {
        **_identity(outcome),
        "num_seeds": len(outcome.choices),
        "num_evaluated": evaluated,
        "num_outside": outcome.count("outside"),
        "num_diverged": outcome.count("diverged"),
        "num_never_fired": outcome.count("never"),
        "interpolated_share": outcome.count("interpolated") / evaluated if evaluated else None,
    }
    for name in ("epoch", "test", "regret", "dense_epochs_saved"):
        column = outcome.curve.metric.column("test") if name == "test" else name
        row |= columns(column, outcome.over_seeds(name), MEAN_STD)
    return row


def _choice_rows(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """Yields a row per seed: the fields of a choice are the columns, but for the metric's name."""
    test = outcome.curve.metric.column("test")
    for choice in outcome.choices:
        values = vars(choice).items()
        yield _identity(outcome) | {test if n == "test" else n: value for n, value in values}


def _correlation_row(one: Correlation) -> dict[str, Any]:
    return {
        **one.curve.place.named,
        "signal": one.signal,
        **columns("spearman", one.over_seeds, MEAN_STD),
        "epoch_spearman_mean": one.epoch_itself.mean if one.epoch_itself else None,
        "num_seeds": one.over_seeds.n if one.over_seeds else 0,
        "num_epochs": one.num_epochs,
    }


def _report(workdir: str, extra: Sequence[str]) -> str:
    """Writes the files, and returns the tables for the terminal."""
    records.require_workdir(workdir)
    runs = results.read_runs(workdir)
    settings = settings_of(runs)
    if not all_curves(settings):
        remedy = "Rules are judged by measured forks."
        raise unexpected("DIR", workdir, "to hold finished forks", remedy)
    replayed = replay_settings(settings, extra=_parsed(extra, settings))
    pairs = [(curve.setting, curve) for curve in all_curves(settings)]
    files = ", ".join(map(str, _write(workdir, replayed)))
    lines = [
        *rules_text.signals_table(pairs, replayed),
        *notes(settings, replayed),
        *formatting.coverage(runs),
        f"Files: {files}",
    ]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Returns the reader of the arguments."""
    made = argparse.ArgumentParser(
        prog="earlyprune rules",
        description="Replays rules over a grid: what each would have chosen, and its regret.",
        epilog=f"Rules: {'; '.join(rule.example for rule in triggers.RULES.values())}.",
    )
    made.add_argument("workdir", metavar="DIR", help="a study's directory")
    made.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="TEXT",
        help="a rule beside the default ones; repeatable",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table and writes the files. Returns 0, or 2 where the input cannot be used."""
    flags = parser().parse_args(arguments)
    return answer(lambda: _report(flags.workdir, flags.rule))
