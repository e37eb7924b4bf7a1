import pytest

from earlyprune_jax.triggers import (
    All,
    AtEpoch,
    EarlyBird,
    EarlyCrop,
    First,
    Peak,
    Plateau,
    Threshold,
    check,
    label,
    parse,
)
from earlyprune_jax.validate import InvalidInput

REST = "patience=2, min_drop=0.05, min_rise=0.05, min_errors=4.0, after=0)"
COLUMNS = ["fisher_trace", "mask_distance", "weight_change", "validation_accuracy", "test_accuracy"]


@pytest.mark.parametrize(
    ("text", "rule", "canonical"),
    [
        ("peak(fisher_trace)", Peak("fisher_trace"), f"peak(fisher_trace, smoothing=0.1, {REST}"),
        (
            " peak( column=fisher_trace,min_drop = .1, smoothing=3 )",
            Peak("fisher_trace", smoothing=3, min_drop=0.1),
            f"peak(fisher_trace, smoothing=3, {REST.replace('0.05', '0.1', 1)}",
        ),
        ("early_bird()", EarlyBird(), "early_bird(mask_distance, threshold=0.1)"),
        (
            "early_crop(sparsity=0.9)",
            EarlyCrop(sparsity=0.9),
            "early_crop(weight_change, sparsity=0.9)",
        ),
        ("threshold(x, below=-1e-3)", Threshold("x", below=-0.001), "threshold(x, below=-0.001)"),
        ("epoch(20)", AtEpoch(20), "epoch(20)"),
        ("epoch(n=20)", AtEpoch(20), "epoch(20)"),
        (
            "plateau('a/b c', patience=3)",
            Plateau("a/b c", patience=3),
            "plateau('a/b c', patience=3, min_change=0.02)",
        ),
        ("peak('class')", Peak("class"), f"peak('class', smoothing=0.1, {REST}"),
        (
            "first(all(early_bird(), epoch(5)), epoch(20),)",
            First((All((EarlyBird(), AtEpoch(5))), AtEpoch(20))),
            "first(all(early_bird(mask_distance, threshold=0.1), epoch(5)), epoch(20))",
        ),
    ],
)
def test_a_text_gives_the_rule_and_the_rule_its_canonical_text(text, rule, canonical):
    assert parse(text) == rule
    assert str(rule) == canonical
    assert parse(canonical) == rule


@pytest.mark.parametrize(
    "text",
    [
        "peak(fisher_trace)",
        "peak(fisher_trace, smoothing=3)",
        "threshold(x, above=0.9)",
        "early_crop(sparsity=0.9)",
        "first(all(early_bird(), epoch(5)), plateau(y, patience=3))",
    ],
)
def test_for_people_a_canonical_text_is_short_and_any_other_stays_as_it_is(text):
    assert label(str(parse(text))) == parse(text).label == text
    # Of an earlier version: its defaults may have been others.
    assert label(text) == text
    assert label("peak(x, moon=3)") == "peak(x, moon=3)"
    assert label("no.such.module:Rule(a=1)") == "no.such.module:Rule(a=1)"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", ["to name one"]),
        ("peek(fisher_trace)", ["Did you mean 'peak'?"]),
        ("peak", ["to be NAME(...). E.g. peak(fisher_trace, smoothing=3)."]),
        ("peak()", ["peak(column) to be given"]),
        ("early_crop()", ["early_crop(sparsity) to be given. E.g. early_crop(sparsity=0.9)."]),
        ("epoch()", ["epoch(n) to be given. E.g. epoch(20)."]),
        ("peak(fisher_trac)", ["Did you mean 'fisher_trace'?"]),
        ("early_bird(column=fisher)", ["column='fisher' to be one of"]),
        ("peak(test_accuracy)", ["Decisions never look at the test set"]),
        ("peak(fisher_trace, patiense=3)", ["Did you mean 'patience'?"]),
        ("peak(fisher_trace, 3)", ["peak(...)=3 to have a name"]),
        ("peak(fisher_trace, column=fisher_trace)", ["to be given once"]),
        ("peak(3)", ["peak(column)=3 to be the name of a column"]),
        ("peak(fisher_trace, patience=two)", ["peak(patience)='two' to be a whole number"]),
        ("peak(fisher_trace, patience=True)", ["=True to be a whole number"]),
        ("peak(fisher_trace, min_drop=1e999)", ["min_drop)=inf to be a finite number"]),
        ("threshold(fisher_trace, above=" + 400 * "9" + ")", ["to be a finite number"]),
        ("epoch(2.5)", ["epoch(n)=2.5 to be a whole number"]),
        ("epoch(-1)", ["epoch(n)=-1 in [1, inf)"]),
        ("epoch(2+3)", ["epoch(n)=2 + 3 to be a whole number"]),
        ("peak(*x)", ["peak(column)=*x to be the name of a column"]),
        ("peak(fisher_trace, **x)", ["option of peak='**'"]),
        ("threshold(fisher_trace)", ["it has neither"]),
        ("first(epoch(3))", ["first(epoch(3)) to hold at least two rules"]),
        ("first(peak, epoch(3))", ["rule=peak to be NAME(...)"]),
        ("first(epoch(3), epoch(4), patience=3)", ["first(patience)=3 to be absent"]),
        ("epoch(3), epoch(4)", ["Combine rules by first(..., ...) or all(..., ...)."]),
        ("epoch(3) or epoch(4)", ["Combine rules by first"]),
        ("peak(fisher_trace, patience=2", ["It has 1 '(' and 0 ')'."]),
        ("peak(fisher_trace))", ["It has 1 '(' and 2 ')'."]),
        ("peak(fisher_trace, patience=2, patience=3)", ["peak(patience)=3 to be given once"]),
        ("peak(fisher_trace; epoch(3))", ["to be readable"]),
        ("peak(\0)", ["to be readable"]),
        ("(" * 900 + ")" * 900, ["to be readable"]),
        ("epoch(" + "9" * 3000 + ")", ["to be a finite number"]),
    ],
)
def test_every_problem_names_the_thing_what_is_allowed_and_the_remedy(text, problems):
    found = check(text, COLUMNS)
    assert len(found) == len(problems)
    assert all(words in problem for words, problem in zip(problems, found, strict=True))


def test_all_problems_of_a_text_are_found_at_once():
    text = (
        "first(peek(epoch(0)), peak(fisher_trac, patience=0, min_drop=2), "
        "early_crop(test_loss, foo=1))"
    )
    found = check(text, COLUMNS)
    assert found == [
        "Expected rule='peek' to be one of peak, early_bird, early_crop, threshold, "
        "epoch, plateau, first, "
        "all. Did you mean 'peak'? Your own: module:attribute.",
        "Expected epoch(n)=0 in [1, inf).",
        "Expected peak(patience)=0 in [1, inf).",
        "Expected peak(min_drop)=2 in [0, 1).",
        "Expected column='fisher_trac' to be one of fisher_trace, mask_distance, weight_change, "
        "validation_accuracy. Did you mean 'fisher_trace'?",
        "Expected option of early_crop='foo' to be one of column, sparsity.",
        "Expected early_crop(column)='test_loss' to be no test metric. "
        "Decisions never look at the test set: use a train or validation metric, or a signal.",
        "Expected early_crop(sparsity) to be given. E.g. early_crop(sparsity=0.9).",
    ]


def test_a_column_that_is_not_measured_lists_those_that_are_without_test_metrics():
    (problem,) = check("early_bird()", ["fisher_trace", "test_accuracy"])
    assert problem == (
        "Expected column='mask_distance' to be one of fisher_trace. "
        "Measure its signal, or take another."
    )


def test_parse_raises_with_the_same_problems_and_needs_no_columns():
    assert parse("peak(anything_at_all)").columns == ("anything_at_all",)
    with pytest.raises(InvalidInput) as caught:
        parse("peak(x, patience=0, smoothing=0)")
    assert caught.value.problems == tuple(check("peak(x, patience=0, smoothing=0)", ["x"]))


def test_nothing_in_a_text_is_ever_run(tmp_path):
    target = tmp_path / "made"
    for text in (
        f"__import__('pathlib').Path({str(target)!r}).touch()",
        f"peak(x, patience=open({str(target)!r}, 'w'))",
        f"peak((lambda: open({str(target)!r}, 'w'))())",
    ):
        assert check(text, ["x"])
    assert not target.exists()
