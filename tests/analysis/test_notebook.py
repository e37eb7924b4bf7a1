import base64
import copy
import re

import pytest
import workdirs

from earlyprune_jax import triggers
from earlyprune_jax.analysis import results, rules, summary
from earlyprune_jax.analysis.notebook import NewestLine, Report


@pytest.fixture
def study(tmp_path):
    workdirs.write_config(tmp_path, num_epochs=3)
    made = workdirs.records(0, [0.9] * 3)
    workdirs.write_trunk(tmp_path, 0, made, last_epoch=3, result=workdirs.finished(3))
    for epoch, accuracy in ((1, 0.8), (2, 0.7)):
        made = workdirs.records(epoch, [accuracy])
        workdirs.write_fork(tmp_path, 0, epoch, made, last_epoch=3, result=workdirs.finished(3))
    results.publish(tmp_path)
    return tmp_path


def shown(report):
    """What a notebook asks for, in IPython's words."""
    return report._repr_mimebundle_(include=None, exclude=None)


def test_a_notebook_shows_text_figures_and_tables_of_the_summary(study):
    report = summary.summarize(study)
    made = shown(report)
    assert made["text/plain"] == str(report)
    page = made["text/html"]
    assert report.splitlines()[0] in page
    pictures = [base64.b64decode(held) for held in re.findall(r"base64,([^\"]+)", page)]
    paths = [study / "figures" / name for name in ("accuracy_vs_fork_epoch.png", "rules.png")]
    assert pictures == [path.read_bytes() for path in paths]
    assert "results.csv (3 rows × " in page
    # The verdict and the main figure are shown at once, all else on a click.
    assert page.index("Recommendation: ") < page.index("<img") < page.index("<details>")
    assert page.index("<details>") < page.index("Forks (") < page.index("Runs: ")


def test_columns_of_one_value_come_last_in_a_table(study):
    page = shown(summary.summarize(study))["text/html"]
    table = page[page.index("results.csv (") : page.index("signals.csv (")]
    headings = re.findall("<th>(.+?)</th>", table.replace("<wbr>", ""))
    # A trunk of 0.9 and two forks of one criterion.
    assert headings[:2] == ["kind", "fork_epoch"]
    assert headings.index("test_accuracy") < headings.index("status")
    assert headings.index("test_accuracy") < headings.index("criterion")


def test_progress_in_a_notebook_is_its_newest_line_and_the_earlier_ones_on_a_click(monkeypatch):
    display = pytest.importorskip("IPython.display")
    states = []

    class Handle:
        def update(self, bundle, *, raw):
            states.append(bundle)

    def show(bundle, *, raw, display_id):
        states.append(bundle)
        return Handle()

    monkeypatch.setattr(display, "display", show)
    stream = NewestLine()
    print("Compiling ...", file=stream)
    print("[1/2] trunk & more\n[2/2] fork", file=stream)
    texts = [state["text/plain"] for state in states]
    assert texts == ["Compiling ...", "Compiling ...\n[1/2] trunk & more\n[2/2] fork"]
    assert "<details>" not in states[0]["text/html"]
    newest, earlier = states[-1]["text/html"].split("</summary>")
    assert newest.endswith("[2/2] fork")
    assert "[1/2] trunk &amp; more" in earlier


def test_outside_of_a_notebook_the_summary_is_the_text_it_was(study, capsys):
    report = summary.summarize(study)
    print(report)
    assert capsys.readouterr().out == f"{report}\n"
    assert isinstance(report, str)
    assert copy.copy(report).workdir == study


def test_text_is_escaped_and_a_workdir_without_results_shows_the_text_alone(tmp_path):
    page = shown(Report("a < b", tmp_path))["text/html"]
    assert "a &lt; b" in page
    assert "<img" not in page
    assert "<details>" not in page


def test_replayed_rules_are_a_table_with_the_columns_of_its_file_and_short_names(study):
    import pandas as pd

    table = rules.table(study)
    written = pd.read_csv(study / "rules.csv")
    assert list(table) == list(written)
    assert list(table["trigger"]) == list(map(triggers.label, written["trigger"]))
    assert (table["trigger"] != written["trigger"]).any()
