"""Figures of both papers by name: what a form plans, what a scale changes, what is drawn."""

import csv
import re
from pathlib import Path

import pytest

from configs import paper_a, paper_b
from earlyprune_jax import config, experiment, main
from earlyprune_jax.grid import plan
from earlyprune_jax.grid.study import Study
from earlyprune_jax.published import accuracy_curves
from earlyprune_jax.validate import InvalidInput

PAPERS = {"paper_a": paper_a, "paper_b": paper_b}
ONE_SEED = [("train.seeds", "0")]
DRAWN = {
    **dict.fromkeys(("fig2", "fig3", "fig3a", "fig3b", "fig8", "fig8a", "fig8b"), "regimes"),
    **{"fig6": "regimes_similarity", "fig10": "training_curve"},
    **dict.fromkeys(("fig7", "fig7a", "fig7b"), "regimes_random_distance"),
}
"""The picture that shows a figure of paper B."""


def members(name: str, scale: str = "smoke") -> set[str]:
    """The directories of all that a form plans."""
    spec = config.resolve(config.load_file(name, scale))
    return {Study(spec, Path("W")).directory(member).as_posix() for member in plan.members(spec)}


def numbers(paper: str) -> list[str]:
    return sorted({form for form in PAPERS[paper].FORMS if re.fullmatch(r"fig\d+", form)})


def run(name: str, workdir, *changes: tuple[str, str]) -> str:
    spec = config.resolve(config.load_file(name, "smoke"), changes)
    experiment.run(spec, workdir)
    return spec.figure.name.lower().replace(" ", "_")


def table(path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


# --- names
# --------------------------------------------------------------------------------------------------


def test_every_figure_of_both_papers_has_a_form():
    assert numbers("paper_a") == sorted(f"fig{number}" for number in range(1, 14))
    # Figure 1 of paper B is a drawing.
    assert numbers("paper_b") == sorted(f"fig{number}" for number in range(2, 11))
    panels = {panel for curve in accuracy_curves() for panel in curve.panels}
    assert {f"fig{panel}" for panel in panels} <= set(paper_a.FORMS)


@pytest.mark.parametrize("paper", PAPERS)
def test_the_panels_of_a_figure_are_parts_of_it_and_together_all_of_it(paper):
    for number in numbers(paper):
        letters = [f for f in PAPERS[paper].FORMS if re.fullmatch(f"{number}[a-h]", f)]
        text = paper_b.TRANSLATION if paper == "paper_b" else ()
        own = [form for form in letters if form not in text]
        if own and number != "fig5":  # figure 5b has no network of 5a but one
            parts = [members(f"{paper}:{form}") for form in own]
            assert set.union(*parts) == members(f"{paper}:{number}"), number


# --- scales
# --------------------------------------------------------------------------------------------------


def test_short_keeps_the_protocol_over_a_stretched_time():
    full, short = (config.load_file("paper_a:fig6", scale).to_dict() for scale in ("full", "short"))
    whole, part = full["train"]["num_epochs"], short["train"]["num_epochs"]
    assert [epoch / part for epoch in short["fork"]["epochs"]] == pytest.approx(
        [epoch / whole for epoch in full["fork"]["epochs"]]
    )
    last = [values["schedule"]["exponential_decay_rate"] ** n for values, n in
            ((full, whole), (short, part))]  # fmt: skip
    assert last[0] == pytest.approx(last[1])
    for key in ("optim", "pruning", "sweep"):
        assert full[key] == short[key]
    assert full["train"]["batch_size"] == short["train"]["batch_size"]


def test_what_a_scale_has_changed_is_listed_and_full_changes_nothing():
    full, short = (config.load_file("paper_b:fig5", scale).to_dict() for scale in ("", "short"))
    told = {text.partition(":")[0]: text for text in short["figure"]["changed"]}
    assert told["train.num_epochs"] == "train.num_epochs: 160 -> 32"
    assert "sweep.rows" in told
    for section in full.keys() - {"figure"}:
        for key, value in full[section].items():
            assert (short[section][key] != value) == (f"{section}.{key}" in told)
    assert config.load_file("paper_b:fig5", "full").to_dict() == full


def test_keys_that_a_scale_sets_are_named_where_they_are_given_too(tmp_path, capsys):
    flags = ["--scale=smoke", "--config.train.num_epochs=3", "--config.optim.momentum=0.5"]
    assert main.main(["paper_a:fig1a", *flags, f"--workdir={tmp_path / 'w'}"]) == 2
    problems = capsys.readouterr().err
    wanted = "--config.train.num_epochs='3' to be left to --scale (train.num_epochs: 200 -> 5)"
    assert wanted in problems and "momentum" not in problems
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["paper_a:fig1a", "--scale=tiny"], "--scale='tiny' to be one of full, short, smoke"),
        (["digits", "--scale=short"], "--scale='short' to be left out: digits has one size only"),
    ],
)
def test_scales_that_there_are_not_are_named(given, words, capsys):
    assert main.main([*given, "--dry_run"]) == 2
    assert words in capsys.readouterr().err


def test_cifar_100_without_data_says_how_to_get_it(tmp_path):
    changes = [("data.data_dir", str(tmp_path))]
    with pytest.raises(InvalidInput) as caught:
        experiment.run(config.resolve(config.load_file("paper_a:fig1b"), changes), tmp_path / "w")
    (problem,) = caught.value.problems
    assert "cifar100" in problem and "earlyprune_jax.data.prepare cifar100" in problem


# --- workdirs
# --------------------------------------------------------------------------------------------------


def test_figures_of_a_paper_data_set_and_scale_share_a_workdir():
    folders = {
        name: main._own_folder(name, config.resolve(config.load_file(name, "smoke")))
        for name in ("paper_a:fig1a", "paper_a:fig6b", "paper_b:fig3a", "paper_b:fig3b")
    }
    assert folders["paper_a:fig1a"] == folders["paper_a:fig6b"] == "paper_a-digits-smoke"
    assert folders["paper_b:fig3a"] == "paper_b-digits-smoke"
    assert folders["paper_b:fig3b"] == "paper_b-numerals-smoke"


def test_every_figure_of_paper_a_runs_in_one_workdir_and_trains_only_what_is_missing(tmp_path):
    workdir, begun = tmp_path / "run", {}
    for number in numbers("paper_a"):
        folder = workdir / "reproduced" / run(f"paper_a:{number}", workdir, *ONE_SEED)
        if number == "fig5":
            assert len({row["setting"] for row in table(folder / "learning_rates.csv")}) == 3
            assert (folder / "figures" / "learning_rates.png").is_file()
            continue
        assert (folder / "figures" / "accuracy_vs_fork_epoch.png").is_file()
        shown = {row["model"] for row in table(folder / "results.csv")}
        assert shown == ({"resnet8", "resnet14"} if number in ("fig2", "fig10") else {"resnet8"})
        if number not in ("fig2", "fig10"):  # five networks are two here: nothing to pair
            rows = table(folder / "published.csv")
            published = {panel for row in rows for panel in row["panel"].split()}
            letters = {panel for panel in published if re.fullmatch(rf"{number[3:]}[a-c]?", panel)}
            wanted = [f for f in paper_a.FORMS if re.fullmatch(f"{number}[a-c]", f)] or [number]
            assert {f"fig{panel}" for panel in letters} == set(wanted)
            forks = [row for row in rows if row["row"] == "fork"]
            assert all(float(row["difference"]) < 0 for row in forks)
            assert (folder / "figures" / "published.png").is_file()
    # A run that was there is not trained again: one attempt each, whichever figures show it.
    for path in workdir.glob("*/*/attempts.json"):
        begun[path.parent.name] = path.read_text()
    spec = config.resolve(config.load_file("paper_a:fig4b", "smoke"), ONE_SEED)
    assert not Study(spec, workdir).left(plan.members(spec))
    protocol = config.resolve(
        config.load_file("paper_a:fig4b", "smoke"), [*ONE_SEED, ("optim.learning_rate", "0.05")]
    )
    with pytest.raises(InvalidInput) as caught:
        experiment.run(protocol, workdir)
    (problem,) = caught.value.problems
    assert "optim.learning_rate: 0.1 there, 0.05 now" in problem
    assert "Figure A 4b (smoke) lacks all its 5 runs there, 15 epochs to train." in problem


def test_every_figure_of_paper_b_runs(tmp_path):
    for name in (*numbers("paper_b"), *paper_b.TRANSLATION):
        workdir = tmp_path / ("text" if name in paper_b.TRANSLATION else "images")
        folder = workdir / "reproduced" / run(f"paper_b:{name}", workdir) / "figures"
        drawn = {path.stem for path in folder.glob("*.png")}
        if name in DRAWN:
            assert DRAWN[name] in drawn, name
        else:
            axes = (
                {"regimes_depth", "regimes_data"} if name != "fig5" else {"regimes_optimal_epoch"}
            )
            assert axes <= drawn, name


@pytest.mark.parametrize("form", ["matched_anneal", "sparse_from_start", "fixed_fraction"])
def test_controls_of_paper_a_stand_beside_its_first_figure(form, tmp_path):
    spec = config.resolve(config.load_file(f"paper_a:{form}", "smoke"), ONE_SEED)
    kinds = {member.kind for member in plan.members(spec)}
    if form == "fixed_fraction":
        assert spec.fork.trigger == "epoch(2)" and "online" in kinds
        return
    trunk = {name for name in members(f"paper_a:{form}") if "/trunks/" in name}
    assert trunk == {name for name in members("paper_a:fig1a") if "/trunks/" in name}
