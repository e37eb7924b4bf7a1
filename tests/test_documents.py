"""What the documents show runs."""

import functools
import re
from pathlib import Path

import jax
import pytest
from flax import linen as nn

from configs import digits

pytestmark = pytest.mark.usefixtures("empty_figures")

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    if "```python" in path.read_text(encoding="utf-8")
)


SMALL = {
    "model.name": "own_code:Linear",
    "model.width_multiplier": 1.0,
    "data.train_fraction": 0.2,
    "pruning.layers": "dense_kernels",
    "signals.fisher_layers": "dense_kernels",
    "signals.weight_layers": "dense_kernels",
}
"""What the example of a whole experiment runs here: ResNet-8 takes half a minute to compile."""


@pytest.fixture(autouse=True)
def small_digits(monkeypatch):
    """Has configs/digits.py give a small experiment."""
    whole = digits.get_config

    def small():
        config = whole()
        config.update_from_flattened_dict(SMALL)
        return config

    monkeypatch.setattr(digits, "get_config", small)


@pytest.fixture(autouse=True)
def init_at_once(monkeypatch):
    """Compiles the making of a network as one program, not operation by operation."""
    eager = nn.Module.init

    def init(self, rngs, *arguments, **options):
        return jax.jit(functools.partial(eager, self, **options))(rngs, *arguments)

    monkeypatch.setattr(nn.Module, "init", init)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_blocks_run_and_print_what_their_comments_say(
    document, tmp_path, monkeypatch, capsys
):
    text = (ROOT / document).read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    shared = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(block, document, "exec"), shared)
        printed = capsys.readouterr().out.splitlines()
        promised = re.findall(r"^print\(.*\)  # (.+)$", block, flags=re.MULTILINE)
        assert [line for line in promised if line not in printed] == [], printed


def test_continuous_integration_runs_the_two_commands_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = [line.strip() for line in README.splitlines() if line.startswith("    pip install")]
    assert len(commands) == 2
    for command in commands:
        assert command.split(" --workdir=")[0] in script


def test_the_files_it_points_to_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_readme_fits_a_page_of_short_sentences():
    assert len(README.splitlines()) <= 120
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    kept = [line for line in prose.splitlines() if not line.startswith(("|", "    ", "#", "!"))]
    sentences = [part.split() for part in re.split(r"(?<=[.!?:])\s+", "\n".join(kept))]
    sentences = [words for words in sentences if len(words) > 2]
    assert sum(map(len, sentences)) / len(sentences) <= 20
