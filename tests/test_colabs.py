"""The notebooks of colabs/ are those of their sources, and run."""

import ast
import json
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "colabs"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SMOKE = yaml.safe_load((FOLDER / "smoke.yaml").read_text(encoding="utf-8"))

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def text(cell):
    return "".join(cell["source"])


def parameters(path):
    tagged = [cell for cell in code_cells(path) if "parameters" in cell["metadata"].get("tags", ())]
    assert len(tagged) == 1
    assigned = [line for line in ast.parse(text(tagged[0])).body if isinstance(line, ast.Assign)]
    return {ast.unparse(target) for line in assigned for target in line.targets}


def test_every_notebook_has_a_smoke_form():
    assert {path.stem for path in NOTEBOOKS} == set(SMOKE)


@each_notebook
def test_a_smoke_form_sets_parameters_that_the_notebook_has(path):
    assert set(SMOKE[path.stem]) <= parameters(path)


@each_notebook
def test_no_outputs_are_committed_and_all_code_is_plain_python(path):
    for cell in code_cells(path):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
        compile(text(cell), path.name, "exec")


def test_all_notebooks_install_the_package_in_the_same_way():
    assert len({text(code_cells(path)[0]) for path in NOTEBOOKS}) == 1


def test_they_point_to_files_that_exist():
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            for link in text(cell).split("](")[1:]:
                assert (FOLDER / link.partition(")")[0].partition("#")[0]).exists(), link


@each_notebook
def test_a_notebook_is_what_its_source_generates(path):
    pytest.importorskip("jupytext", reason="generates notebooks: pip install -e '.[notebooks]'")
    from colabs import generate

    assert path.with_suffix(".py") in generate.SOURCES
    assert path.read_text(encoding="utf-8") == generate.notebook(path.with_suffix(".py"))


@pytest.mark.notebooks
@each_notebook
def test_a_notebook_runs_without_a_warning_beside_a_clone_of_the_packages_name(path, tmp_path):
    import papermill

    # As on Colab, where a clone lies in the kernel's folder: it must not hide the package in it.
    (tmp_path / "earlyprune_jax").symlink_to(ROOT)
    executed = papermill.execute_notebook(
        path, tmp_path / path.name, SMOKE[path.stem], cwd=tmp_path, progress_bar=False
    )
    outputs = [output for cell in executed.cells for output in cell.get("outputs", ())]
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []
    assert "\x1b" not in "".join(output.get("text", "") for output in outputs)
    # Progress is one output that is replaced, and the report another.
    runs = [cell for cell in executed.cells if "experiment.run(" in cell["source"]]
    assert all(len(cell["outputs"]) <= 2 for cell in runs)
    assert any("text/html" in output.get("data", {}) for output in outputs)
