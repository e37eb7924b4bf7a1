"""The configs that come with the package, their forms and names, and how a config file is run."""

import collections
import dataclasses
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from configs import (
    cifar10,
    cifar100,
    digits,
    paper_a,
    paper_b,
    translation,
    two_regime,
    two_regime_digits,
)
from earlyprune_jax import config, main, records, user_code
from earlyprune_jax.validate import InvalidInput

ROOT = Path(__file__).parent.parent
FAMILIES = {
    "cifar10": cifar10,
    "paper_a": paper_a,
    "paper_b": paper_b,
    "translation": translation,
    "two_regime": two_regime,
}
WITHOUT_PANELS = [name for name in config.names() if not re.search(r"fig\d+[a-h]$", name)]
"""All but single panels of published figures: tests/test_paper_figures.py resolves them."""
TEXT_PANELS = ("3b", "7b", "8b")
SMALL_AXES = ("two_regime:depth_small", "two_regime:data_small")
NEIGHBOUR = "from configs import digits\n\ndef base():\n    return digits.get_config()\n"
BASE = """
from ml_collections.config_dict import required_placeholder
from configs import digits
def get_config():
    c = digits.get_config().unlock()
"""
OWN = """
def get_config():
    config = base.base()
    config.train.num_epochs += base.MORE
    return config
"""


@pytest.fixture(autouse=True)
def no_folder_is_kept():
    yield
    user_code.use_folder(None)


def on_text_that_is_here(name: str) -> list[tuple[str, str]]:
    """What makes a config of parallel text resolve where its text is not."""
    numerals = [("data.name", "numerals(num_pairs=500)"), ("signals.num_examples", "100")]
    is_text = name.startswith("translation:") or name.removeprefix("paper_b:fig") in TEXT_PANELS
    return numerals if is_text else []


def problem(path: str | Path) -> str:
    with pytest.raises(InvalidInput) as caught:
        config.load_file(str(path))
    (found,) = caught.value.problems
    return found


def read(path: str | Path) -> dict[str, Any]:
    return config.load_file(str(path)).to_dict()


def num_epochs(path: str) -> int:
    return read(path)["train"]["num_epochs"]


def write(folder: Path, more: int, how: str = "from . import base") -> str:
    """A config that needs its neighbour `base`, which says how many epochs more than digits' 40."""
    folder.mkdir(exist_ok=True)
    (folder / "base.py").write_text(f"{NEIGHBOUR}\nMORE = {more}\n")
    (folder / "own.py").write_text(f"{how}\n{OWN}")
    return str(folder / "own.py")


# --- the configs themselves
# --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITHOUT_PANELS)
def test_every_config_resolves_in_every_form(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    spec = config.resolve(config.load_file(name), on_text_that_is_here(name))
    assert (len(spec.settings()) > 1) == ("sweep" in read(name))


def test_every_file_and_form_is_another_experiment_and_has_a_name():
    files = {path.stem for path in (ROOT / "configs").glob("[!_]*.py")}
    forms = {f"{name}:{form}" for name, family in FAMILIES.items() for form in family.FORMS if form}
    assert set(config.names()) == files | forms
    resolved = {name: read(name) for name in config.names()}
    same = collections.defaultdict(set)
    for name, values in resolved.items():
        same[str(values)].add(name)
    assert [names for names in same.values() if len(names) > 1] == [
        {"cifar10", "paper_a", "paper_a:fig1a"},
        {"cifar100", "paper_a:fig1b"},
        {"paper_b", "paper_b:fig2", "two_regime"},
        {"translation", "translation:numerals"},
    ]
    assert len({config.short_name(name) for name in resolved}) == len(resolved)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_form_changes_keys_that_the_file_shows(family):
    shown = {
        f"{section}.{leaf}"
        for section, leaves in family.get_config().to_dict().items()
        for leaf in leaves
    }
    for form, changes in family.FORMS.items():
        assert changes.keys() - {"sweep"} <= shown, form
    with pytest.raises(ValueError, match=r"'smal' to be one of .*, or none"):
        family.get_config("smal")


def test_the_forms_of_paper_b_scale_the_axis_they_are_named_for():
    for depth, amount in (("paper_b:fig5a", "paper_b:fig5b"), *[SMALL_AXES]):
        first, second = read(depth), read(amount)
        assert list(first.pop("sweep")) == ["model"] and list(second.pop("sweep")) == ["data"]
        first["figure"] = second["figure"]
        assert first == second


def test_configs_are_modules_of_a_notebook_too():
    assert cifar100.get_config().to_dict()["data"]["name"] == "cifar100"
    assert two_regime_digits.get_config().to_dict()["model"]["name"] == "preresnet8"
    assert digits.get_config().to_dict()["model"]["name"] == "resnet8"
    assert read("configs/cifar100.py") == cifar100.get_config().to_dict()


# --- names
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "digits",
        "digits.py",
        "configs/digits.py",
        "./digits",
        "two_regime:small",
        "configs/cifar10:small",
    ],
)
def test_configs_are_found_by_name_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read(name)["train"]["seeds"] in ((0, 1, 2), (0,))


def test_a_file_of_ones_own_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, 1)
    (tmp_path / "own.py").rename("digits.py")
    assert num_epochs("digits.py") == 41
    assert num_epochs("digits") == 40


@pytest.mark.parametrize(
    "path", ["elsewhere/configs/digits.py", "my/digits.py", "/digits.py", "digits.json"]
)
def test_another_path_is_not_taken_for_a_name(path):
    assert "to be a file" in problem(path)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("digit", "digits"),
        ("configs/cifar10_small.py", "cifar10:small"),
        ("configs/cifar10_signals.py", "cifar10:signals"),
        ("two_regime_depth_small", "two_regime:depth_small"),
        ("configs/two_regime_data.py:small", "two_regime:data_small"),
    ],
)
def test_an_unknown_name_gets_the_nearest_first_and_all(given, meant):
    found = problem(given)
    assert f"Expected --config={given!r} to be a file. Did you mean {meant!r}" in found
    assert all(name in found for name in config.names() if ":" not in name)


def test_a_wrong_path_gets_the_nearest_files_of_its_own_folder_too(tmp_path):
    (tmp_path / "my_experiment.py").write_text("")
    assert f"Did you mean '{tmp_path}/my_experiment.py'?" in problem(f"{tmp_path}/my_experment.py")


def test_a_wrong_form_gets_the_nearest_form_of_its_config():
    assert "Did you mean 'cifar10:small'?" in problem("cifar10:smal")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "configs/two_regime.py:smal",
            "'smal' to be one of small, depth_small, data_small, or none",
        ),
        ("cifar10:smal", "'smal' to be one of small, signals, or none"),
        ("configs/digits.py:small", "no forms, so none called 'small'"),
    ],
)
def test_a_form_that_a_config_lacks_is_named(path, words):
    found = problem(path)
    assert f"Expected --config={path!r} to define get_config" in found and words in found


def test_a_form_may_be_any_text_and_its_directory_stays_one(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        f"{NEIGHBOUR}\ndef get_config(form):\n    c = base()\n    c.model.name = form\n "
        f"   return c\n"
    )
    assert read(f"{own}:a/b=1")["model"]["name"] == "a/b=1"
    assert config.short_name(f"{own}:a/b=1") == "own_a-b=1"


# --- running a file
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    ["from . import base", "from .base import base as made\nfrom . import base", "import base"],
)
def test_neighbours_are_those_of_the_folder_and_of_now(how, tmp_path):
    first, second = write(tmp_path / "first", 1, how), write(tmp_path / "second", 2, how)
    before = set(sys.modules)
    assert [num_epochs(path) for path in (first, second, first)] == [41, 42, 41]
    write(tmp_path / "first", 3, how)
    assert num_epochs(first) == 43
    assert set(sys.modules) <= before
    assert not list(tmp_path.rglob("*.pyc"))


def test_a_neighbour_is_found_while_get_config_runs(tmp_path):
    own = write(tmp_path, 5)
    text = Path(own).read_text().replace("from . import base\n", "")
    Path(own).write_text(
        text.replace("    config = base", "    from . import base\n    config = base")
    )
    assert num_epochs(own) == 45


def test_a_config_may_load_another_by_name_and_keeps_its_folder(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "from earlyprune_jax import config\n\n"
        "def get_config():\n    return config.load_file('two_regime_digits')\n"
    )
    loaded = config.load_file(str(own))
    assert loaded.to_dict() == two_regime_digits.get_config().to_dict()
    assert config.resolve(loaded).folder == str(tmp_path)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import sys\nsys.exit(7)\n", "It raised SystemExit: 7"),
        ("def get_config():\n    raise SystemExit\n", "It raised SystemExit"),
        ("class Odd(BaseException): ...\nraise Odd('x')\n", "It raised Odd: x"),
        ("def get_config(:\n", "It raised SyntaxError"),
        ("from . import absent\n", "It raised ImportError: cannot import name 'absent'"),
        (
            "from .. import base\n",
            "It raised ImportError: attempted relative import beyond top-level package",
        ),
        ("x = 1\n", "It raised KeyError: 'get_config'"),
        ("raise KeyboardInterrupt\n", "It raised KeyboardInterrupt"),
        ("def f(): f()\nf()\n", "It raised RecursionError"),
        ("class Odd(Exception):\n    def __str__(self): 1 / 0\nraise Odd\n", "It raised Odd"),
        (
            f"{BASE}    c.train.num_epochs = required_placeholder(int)\n    return c",
            "train.num_epochs",
        ),
        (f"{BASE}    c.train.again = c.train\n    return c", "It raised RecursionError"),
        (f"{BASE}    c.train.num_epochs = 10**5000\n    return c", "int that cannot be shown"),
        (f"{BASE}    c._fields[3] = 4\n    return c", "It raised TypeError: '<' not supported"),
        ("def get_config(): return {}\n", "to return a ConfigDict"),
    ],
)
def test_whatever_a_config_does_wrong_is_one_problem_and_exits_2(source, words, tmp_path, capsys):
    own = tmp_path / "own.py"
    own.write_text(source)
    assert main.main([f"--config={own}", f"--workdir={tmp_path / 'run'}"]) == 2
    printed = capsys.readouterr().err
    assert "1 problem" in printed and words in printed
    assert not (tmp_path / "run").exists()


def test_an_interrupt_while_a_config_runs_is_no_problem_of_the_config(tmp_path):
    own = tmp_path / "own.py"
    own.write_text("import signal; signal.raise_signal(signal.SIGINT)\n")
    with pytest.raises(KeyboardInterrupt):
        config.load_file(str(own))


# --- the wheel
# ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_wheel_holds_the_configs_and_finds_them_by_name(tmp_path):
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(ROOT),
        "--no-deps",
        "--wheel-dir",
        str(tmp_path),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("earlyprune_jax-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if "/configs/" in name}
        tops = {name.partition("/")[0] for name in archive.namelist()}
        archive.extractall(tmp_path / "site")
    assert held == {
        f"earlyprune_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")
    }
    assert len(tops) == 2 and "earlyprune_jax" in tops  # the other one is .dist-info
    (tmp_path / "elsewhere").mkdir()
    code = (
        "import sys, earlyprune_jax.main as main, earlyprune_jax.configs.cifar100 as "
        "c; print(main.__file__);"
        "assert c.get_config().data.num_classes == 100; raise SystemExit(main.main(sys.argv[1:]))"
    )
    for name, words in (
        ("digits", "Total: 30 runs"),
        ("two_regime_digits", "Total: 363 runs"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, f"--config={name}", "--dry_run"],
            env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
            cwd=tmp_path / "elsewhere",
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(str(tmp_path / "site")) and words in done.stdout


# --- resolved configs, as JSON
# ---------------------------------------------------------------------------------------------


SWEPT = [
    ("sweep.optim.weight_decay", "0.0005,1e-05"),
    ("sweep.rows", "[{'fork.length': 1, 'model.name': 'resnet8'}, {'fork.length': 2, 'model.name': "
     "'resnet14'}]"),
    ("fork.retraining", "custom"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes"),
    [(name, on_text_that_is_here(name)) for name in WITHOUT_PANELS if "cifar" not in name]
    + [("digits", SWEPT)],
)
def test_a_resolved_config_resolves_to_itself_from_json(name, changes, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    spec = config.resolve(config.load_file(name), changes)
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(spec.to_dict() | {"checksum": "0123456789abcdef"}))
    again = config.resolve(config.load_file(str(file)))
    assert dataclasses.replace(again, folder=spec.folder) == spec
    assert again.study_id() == spec.study_id()
    assert again.folder == str(tmp_path)
    own = tmp_path / "own.py"
    own.write_text(
        "from earlyprune_jax import config\n\ndef get_config():\n"
        "    made = config.load_file('mine.json')\n    made.optim.learning_rate = 0.5\n"
        "    return made\n"
    )
    monkeypatch.chdir(tmp_path)
    assert config.resolve(config.load_file("own.py")).optim.learning_rate == 0.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"data": {', '"data": {,'), "to be JSON: Expecting property name enclosed in double"),
        (('"data": {', '"data": {,'), "at line 2, column 12"),
        (('"momentum": 0.9', '"momentum": NaN'), "NaN is no number of JSON"),
        (('"momentum": 0.9', '"nesterov": true'), "'nesterov' stands twice in its section"),
        (('"momentum": 0.9', '"momentum": 1e999'), "optim.momentum=inf in [0, 1)"),
        (('"momentum": 0.9', f'"momentum": {"9" * 5000}'), "to be JSON: Exceeds the limit"),
        (('"momentum": 0.9', '"momentum": "0.9"'), "optim.momentum='0.9' to be a number"),
        (('"momentum": 0.9', '"momentum": null'), "optim.momentum=None to be a number"),
        (('"momentum": 0.9', '"momentun": 0.9'), "Did you mean 'optim.momentum'?"),
        (('"data": {', '"sweep": 3, "data": {'), "Unknown config key 'sweep'"),
        (('"data": {', '"dataa": {"x": [{}]}, "data": {'), "Unknown config key 'dataa.x'"),
        (("{\n", "[" * 100_000), "to be JSON: maximum recursion depth"),
    ],
)
def test_json_that_is_no_config_is_named_with_its_place_and_exits_2(
    change, words, tmp_path, capsys
):
    text = json.dumps(config.resolve(digits.get_config()).to_dict(), indent=2)
    assert change[0] in text
    file = tmp_path / "mine.json"
    file.write_text(text.replace(change[0], change[1], 1))
    assert main.main([f"--config={file}", f"--workdir={tmp_path / 'run'}"]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("text", [b"[]", b"{}", b'{"name": "x"}', b"", b"\xff\xfe{}"])
def test_a_json_file_without_sections_of_a_config_is_named(text, tmp_path):
    file = tmp_path / "package.json"
    file.write_bytes(text)
    assert f"Expected --config={str(file)!r} to " in problem(file)


def test_the_config_of_a_workdir_goes_on_there_with_the_modules_of_its_folder(tmp_path):
    home, workdir = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(config.resolve(digits.get_config()).to_dict()))
    assert config.workdir_of(str(workdir / "config.json")) is None
    records.write_of_study(workdir, "study.json", {"format": records.FORMAT, "folder": str(home)})
    with pytest.raises(InvalidInput, match="config.json.* to match its checksum"):
        config.load_file(str(workdir / "config.json"))
    records.write_of_study(workdir, "config.json", config.resolve(digits.get_config()).to_dict())
    assert config.workdir_of(str(workdir / "config.json")) == workdir
    assert config.resolve(config.load_file(str(workdir / "config.json"))).folder == str(home)
