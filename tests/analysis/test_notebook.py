import base64
import copy
import re

import pytest
import workdirs

from earlyprune_jax import triggers
from earlyprune_jax.analysis import results, rules, summary
from earlyprune_jax.analysis.notebook import Report


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
    # The main figure is shown at once, all else on a click.
    assert page.index("<img") < page.index("<details>")


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
