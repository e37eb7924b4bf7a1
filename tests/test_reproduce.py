"""docs/reproduce.md: its tables are those that docs/reproduce.py writes; its costs by hand."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def reproduce():
    return SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "reproduce.py")))


def test_page_is_up_to_date(reproduce):
    text = reproduce.PAGE.read_text(encoding="utf-8")
    assert text == reproduce.page(text), "Run python docs/reproduce.py."


def test_every_network_has_been_timed(reproduce):
    assert set(reproduce.sizes()) <= set(reproduce.measured())


def test_costs_are_those_of_the_papers(reproduce):
    # Figure A 1a: 3 seeds; each a dense run, and nine forks that go on to epoch 200.
    own = reproduce.cost(reproduce.spec_of("paper_a", "fig1a", "full"))
    assert (own.num_trunks, own.num_forks) == (3, 27)
    assert own.num_epochs == 3 * (200 + sum(range(20, 200, 20)))
    assert own.num_steps == {("resnet18", 32, 128): own.num_epochs * 390}
    assert own.hours({("resnet18", 32, 128): 36.0}) == pytest.approx(own.num_epochs * 3.9)
    assert own.hours({("resnet18", 16, 128): 36.0}) is None
    # Figure B 2: 16 fork epochs, 9 sparsities, 3 fine-tuning seeds of 40 epochs.
    own = reproduce.cost(reproduce.spec_of("paper_b", "fig2", "full"))
    assert (own.num_trunks, own.num_forks) == (1, 16 * 9 * 3)
    assert own.num_steps == {("preresnet20", 32, 64): (160 + 16 * 9 * 3 * 40) * 781}


def test_status_links_to_what_was_run(reproduce):
    text = reproduce.status("paper_a", "fig1a")
    assert text == "[shrunken, 1 seed](../results/paper_a_short_fig1a)"
    assert reproduce.status("paper_a", "fig13c") == "not run"
