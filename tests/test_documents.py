"""What the documents show runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    if "```python" in path.read_text(encoding="utf-8")
)


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
