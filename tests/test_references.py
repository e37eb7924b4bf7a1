"""Built-ins and the user's code by name: how they are written, found, checked and known by their
sources."""

import sys

import pytest

from earlyprune_jax import references, user_code
from earlyprune_jax.validate import InvalidInput


@pytest.fixture
def folder(tmp_path):
    """A folder of the user's modules, in which references are looked up; forgotten afterwards."""
    user_code.use_folder(tmp_path)
    yield tmp_path
    user_code.use_folder(None)


def write(folder, **modules: str) -> None:
    """Modules by name; `PACKAGE_name` is a module of a package, `PACKAGE_` the package itself."""
    for name, text in modules.items():
        *parents, last = name.split("_")
        path = folder.joinpath(*parents, f"{last or '__init__'}.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def problems(text: str, builtins=None) -> str:
    with pytest.raises(InvalidInput) as caught:
        references.load("model.name", text, builtins or {})
    return str(caught.value)


# How they are written


@pytest.mark.parametrize(
    ("text", "path", "arguments", "options"),
    [
        ("resnet20", "resnet20", (), {}),
        (" lab.nets:Net.small ", "lab.nets:Net.small", (), {}),
        ("nets:Net()", "nets:Net", (), {}),
        (
            "nets:Net(3, -1.5, (1, 'a,b)'), depth=[2, None], wide=True)",
            "nets:Net",
            (3, -1.5, (1, "a,b)")),
            {"depth": [2, None], "wide": True},
        ),
        ("fisher( estimator = 'exact' )", "fisher", (), {"estimator": "exact"}),
    ],
)
def test_a_reference_is_a_path_and_literals(text, path, arguments, options):
    reference = references.parse(text)
    assert (reference.path, reference.arguments, dict(reference.options)) == (
        path,
        arguments,
        options,
    )
    assert references.parse(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nets.Net",
        "nets:",
        ":Net",
        "nets:Net:more",
        "nets:Net(depth=open('x'))",
        "nets:Net(depth=2 ** 3 ** 9)",
        "nets:Net(x)",
        "nets:Net(*[1])",
        "nets:Net(**{'a': 1})",
        "nets:Net(1",
        "nets:Net(1))",
        "nets:Net(1).other(2)",
        "nets:Net(1); import os",
        "nets:Net(a=1, a=2)",
        "nets:Net" + "(" * 500,
    ],
)
def test_what_is_no_path_with_literals_is_refused_and_never_evaluated(text):
    with pytest.raises(InvalidInput, match="Expected reference="):
        references.parse(text)


def test_reserved_prefixes_are_no_import_paths_and_no_modules():
    for text in ("npz:images", "folder:images", "regex:conv"):
        assert not references.is_import_path(text)
        assert references.import_paths(text) == []
        assert f"to be no {text.partition(':')[0]}:" in problems(text)


def test_a_text_of_a_million_letters_is_read_at_once():
    assert references.import_paths("x" * 1_000_000) == []
    assert references.import_paths("x." * 500_000) == []
    assert not references.is_import_path("x" * 1_000_000)


def test_import_paths_are_found_in_a_text_that_holds_several_but_not_in_quotes():
    text = "first(mine:Rule(column='a:b'), all(lab.rules:Other, epoch(2)), x=\"c:d\")"
    assert references.import_paths(text) == ["mine:Rule", "lab.rules:Other"]


# How they are found


def test_arguments_are_bound_and_those_that_do_not_fit_are_named(folder):
    write(folder, nets="def net(size, *, depth=1):\n    return size, depth\n")
    assert references.load("model.name", "nets:net(depth=4)", {})(7) == (7, 4)
    assert references.load("model.name", "nets:net(7)", {})() == (7, 1)
    assert references.load("model.name", "pair(2)", {"pair": lambda a, b: a - b})(1) == 1
    assert "'deep'" in problems("nets:net(deep=4)")
    assert "too many positional" in problems("nets:net(1, 2)")


def test_what_is_not_there_is_named_with_what_is_near(folder, tmp_path_factory, monkeypatch):
    write(folder, nets="class Network:\n    pass\n\nDEPTH = 3\n")
    assert "Did you mean 'resnet20'?" in problems("resnet2O", {"resnet20": len, "resnet8": len})
    assert "Did you mean 'Network'?" in problems("nets:Netwrk")
    assert "it is a int, 3" in problems("nets:DEPTH")
    missing = problems("netz:Network")
    assert "to name a module that exists" in missing
    assert f" or {folder}." in missing
    # As `earlyprune` and python -m have it, the current folder is on the path.
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert f"on the Python path or {here} or {folder}." in problems("netz:Network")


def test_a_module_that_raises_or_lacks_another_is_named_with_what_it_raised(folder):
    write(
        folder,
        broken="1 / 0\n",
        lacking="import no_such_module_of_mine\n",
        leaving="raise SystemExit(3)\n",
        stopping="raise GeneratorExit\n",
        mute="class Mute(Exception):\n def __str__(self): raise KeyboardInterrupt\nraise Mute\n",
        coloured="raise ValueError('two\\nlines, \\x1b[2J\\udc80')\n",
        interrupted="import signal; signal.raise_signal(signal.SIGINT)\n",
    )
    assert "It raised ZeroDivisionError: division by zero" in problems("broken:f")
    assert "No module named 'no_such_module_of_mine'" in problems("lacking:f")
    assert "It raised SystemExit: 3" in problems("leaving:f")
    assert "It raised GeneratorExit" in problems("stopping:f")
    assert "It raised Mute (" in problems("mute:f")
    assert r"It raised ValueError: two lines, \x1b[2J\udc80 (" in problems("coloured:f")
    with pytest.raises(KeyboardInterrupt):
        references.load("model.name", "interrupted:f", {})
    # What raised once is tried again, not remembered.
    write(folder, broken="def f():\n    return 1\n")
    assert references.load("model.name", "broken:f", {})() == 1


def test_two_folders_of_one_process_have_modules_of_one_name(tmp_path):
    found = []
    for name in ("first", "second", "first"):
        write(
            tmp_path / name,
            nets=f"from helper import NAME\n\ndef net():\n    return NAME, {name!r}\n",
        )
        write(tmp_path / name, helper=f"NAME = {name!r}\n")
        user_code.use_folder(tmp_path / name)
        found.append(
            (references.load("model.name", "nets:net", {})(), references.digest("nets:net"))
        )
    user_code.use_folder(None)
    assert [made for made, _ in found] == [
        ("first", "first"),
        ("second", "second"),
        ("first", "first"),
    ]
    assert found[0][1] == found[2][1] != found[1][1]
    assert str(tmp_path / "first") not in sys.path
    assert "to name a module that exists" in problems("nets:net")


# What they are known by

NET = (
    "from lab.helper import width\n\ndef net():\n    from lab import late\n    return "
    "width() + late.X\n"
)


def package(folder, **changes: str) -> None:
    """A package whose modules import one another in every way there is."""
    files = {
        "lab_": "",
        "lab_nets": NET,
        "lab_helper": (
            "from . import deep\nfrom .sub.far import Y\n\ndef width():\n    return deep.Z + Y\n"
        ),
        "lab_deep": "Z = 1\n",
        "lab_late": "X = 1\n",
        "lab_sub_": "",
        "lab_sub_far": "from .. import deep\nY = 1\n",
        "lab_unused": "W = 1\n",
    }
    write(folder, **(files | changes))


def digest(folder, path="lab.nets:net") -> str:
    user_code.use_folder(None)
    user_code.use_folder(folder)
    try:
        return references.digest(path) or ""
    finally:
        user_code.use_folder(None)


def test_a_digest_follows_every_helper_and_not_what_is_not_imported(tmp_path):
    package(tmp_path)
    before = digest(tmp_path)
    assert len(before) == 64
    assert digest(tmp_path) == before
    changes = {
        "lab_nets": NET + "# more\n",
        "lab_helper": (
            "from . import deep\nfrom .sub.far import Y\n\ndef width():\n    return deep.Z - Y\n"
        ),
        "lab_deep": "Z = 2\n",
        "lab_late": "X = 2\n",
        "lab_sub_far": "from .. import deep\nY = 2\n",
        "lab_": "A = 1\n",
    }
    seen = {before}
    for name, text in changes.items():
        package(tmp_path, **{name: text})
        seen.add(digest(tmp_path))
    assert len(seen) == 1 + len(changes)
    package(tmp_path, lab_unused="W = 2\n")
    assert digest(tmp_path) == before


def test_a_changed_file_is_loaded_anew_at_the_start_of_an_experiment_and_never_within_one(folder):
    write(folder, nets="from helper import f\n", helper="def f():\n    return 1\n")
    first, made = references.digest("nets:f"), references.load("model.name", "nets:f", {})()
    write(folder, helper="def f():\n    return 2\n")
    assert (made, references.load("model.name", "nets:f", {})()) == (1, 1)
    assert references.digest("nets:f") == first
    user_code.refresh()
    assert references.load("model.name", "nets:f", {})() == 2
    assert references.digest("nets:f") != first


def test_a_digest_does_not_depend_on_the_place_or_the_line_endings(tmp_path):
    package(tmp_path / "here")
    package(tmp_path / "there" / "deeper")
    windows = tmp_path / "there" / "deeper" / "lab" / "nets.py"
    windows.write_bytes(NET.replace("\n", "\r\n").encode())
    assert digest(tmp_path / "here") == digest(tmp_path / "there" / "deeper")


def test_a_digest_does_not_depend_on_what_was_imported_before(tmp_path):
    package(tmp_path)
    alone = digest(tmp_path)
    user_code.use_folder(tmp_path)
    references.load("model.name", "lab.unused:W.bit_length", {})
    after = references.digest("lab.nets:net")
    user_code.use_folder(None)
    assert after == alone


def test_a_module_with_a_code_version_is_known_by_that_alone(tmp_path):
    package(tmp_path, lab_nets=NET + "CODE_VERSION = '1'\n")
    before = digest(tmp_path)
    package(tmp_path, lab_nets=NET + "# other words\nCODE_VERSION = '1'\n", lab_deep="Z = 5\n")
    assert digest(tmp_path) == before
    package(tmp_path, lab_nets=NET + "CODE_VERSION = '2'\n")
    assert digest(tmp_path) != before


def test_built_ins_have_no_digest_and_installed_packages_that_of_their_version(monkeypatch):
    import optax

    assert references.digest("resnet20") is None
    before = references.digest("optax:lion")
    assert before == references.digest("optax:lion(b1=0.5)") != references.digest("jax.nn:relu")
    monkeypatch.setattr(optax, "__version__", "other")
    assert references.digest("optax:lion") != before


# What a review found


def test_a_digest_does_not_depend_on_which_of_two_modules_imports_a_helper_by_a_call_first(
    tmp_path,
):
    calls = "import importlib\nhelper = importlib.import_module('helper')\ndef f():\n    return 1\n"
    write(tmp_path, one=calls, two=calls, helper="X = 1\n")
    found = []
    for order in (("one:f", "two:f"), ("two:f", "one:f")):
        user_code.use_folder(tmp_path)
        found.append({path: references.digest(path) for path in order})
        user_code.use_folder(None)
    assert found[0] == found[1]
    write(tmp_path, helper="X = 2\n")
    user_code.use_folder(tmp_path)
    changed = {path: references.digest(path) for path in ("one:f", "two:f")}
    user_code.use_folder(None)
    assert all(changed[path] != found[0][path] for path in changed)


def test_a_helper_that_a_function_imports_stays_what_it_was_until_the_next_experiment(folder):
    write(folder, lazy="def f():\n    from helper import X\n    return X\n", helper="X = 1\n")
    first = references.digest("lazy:f")
    write(folder, helper="X = 2\n")
    function = references.load("model.name", "lazy:f", {})
    assert function() == 1 and references.digest("lazy:f") == first
    user_code.refresh()
    assert references.digest("lazy:f") != first
    assert references.load("model.name", "lazy:f", {})() == 2


@pytest.mark.parametrize(
    "source",
    [
        "import importlib\ndef f():\n    return importlib.import_module('helper').X\n",
        "def f():\n    return __import__('helper').X\n",
        "import importlib\nhelper = importlib.import_module('hel' + 'per')\ndef f():\n    pass\n",
        "import importlib\nf = importlib.import_module('hel' + 'per').g\n",
    ],
    ids=["in a function", "by __import__", "by a name worked out", "only an attribute of it"],
)
def test_a_helper_that_is_imported_by_a_call_is_part_of_the_digest(tmp_path, source):
    digests = set()
    for value in (1, 2):
        write(tmp_path, mine=source, helper=f"X = {value}\ndef g():\n    pass\n")
        digests.add(digest(tmp_path, "mine:f"))
    assert len(digests) == 2


def test_a_package_that_imports_whatever_lies_in_its_folder_is_known_by_all_of_it(tmp_path):
    register = "import importlib, pkgutil\nfor found in pkgutil.iter_modules(__path__):\n"
    register += "    importlib.import_module(f'{__name__}.{found.name}')\n"
    digests = set()
    for value in (1, 2):
        write(tmp_path, lab_=register, lab_nets="def f():\n    pass\n", lab_other=f"X = {value}\n")
        digests.add(digest(tmp_path, "lab.nets:f"))
    assert len(digests) == 2


# What is told before anything is imported


MARKED = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"


def foreseen(folder, path="lab.nets:net", known="", modules=None) -> list[str]:
    """What has changed, in a process that has imported none of it."""
    user_code.use_folder(None)
    user_code.use_folder(folder)
    try:
        changed = user_code.changed_sources(path, known, modules or {})
        assert not any(name.split(".")[0] == "lab" for name in sys.modules)
        return changed
    finally:
        user_code.use_folder(None)


def marked(folder, **changes: str) -> None:
    package(folder, **changes)
    for file in folder.rglob("*.py"):
        file.write_text(MARKED + file.read_text())


def noted(folder, path="lab.nets:net") -> tuple[str, dict[str, str]]:
    """What a workdir holds of the code: its digest, and that of each module."""
    user_code.use_folder(folder)
    known = user_code.digest(path), user_code.source_digests()
    user_code.use_folder(None)
    for mark in folder.rglob("ran"):
        mark.unlink()
    return known


def test_changed_modules_are_named_and_none_is_imported(tmp_path):
    marked(tmp_path)
    known, modules = noted(tmp_path)
    assert foreseen(tmp_path, known=known, modules=modules) == []
    for name in ("lab_nets", "lab_helper", "lab_deep", "lab_late", "lab_sub_far", "lab_"):
        file = tmp_path.joinpath(*name.split("_"))
        file = file / "__init__.py" if name.endswith("_") else file.with_suffix(".py")
        before = file.read_text()
        file.write_text(before + "# more\n")
        changed = foreseen(tmp_path, known=known, modules=modules)
        assert changed == [name.strip("_").replace("_", ".")]
        file.write_text(before.replace("\n", "\r\n"), newline="")
        assert foreseen(tmp_path, known=known, modules=modules) == []
        file.write_text(before)
    (tmp_path / "lab" / "unused.py").write_text("W = 2\n")
    assert foreseen(tmp_path, known=known, modules=modules) == []
    assert not list(tmp_path.rglob("ran"))


def test_a_code_version_is_read_off_the_source_where_it_stands_there(tmp_path):
    package(tmp_path, lab_nets=NET + "CODE_VERSION = '1'\n")
    known, modules = noted(tmp_path)
    package(tmp_path, lab_nets="# other words\n" + NET + "CODE_VERSION = '1'\n", lab_deep="Z = 5\n")
    assert foreseen(tmp_path, known=known, modules=modules) == []
    package(tmp_path, lab_nets=NET + "CODE_VERSION = '2'\n")
    assert foreseen(tmp_path, known=known, modules=modules) == ["lab.nets"]
    # Worked out: what it is shows when it runs.
    package(tmp_path, lab_nets=NET + "CODE_VERSION = str(2)\n")
    assert foreseen(tmp_path, known=known, modules=modules) == []


def test_a_helper_imported_by_a_name_that_is_worked_out_shows_after_the_import_only(tmp_path):
    source = "import importlib\nf = importlib.import_module('hel' + 'per').g\n"
    write(tmp_path, mine=source, helper="def g():\n    return 1\n")
    known, modules = noted(tmp_path, "mine:f")
    write(tmp_path, helper="def g():\n    return 2\n")
    assert foreseen(tmp_path, "mine:f", known, modules) == []
    assert digest(tmp_path, "mine:f") != known
    write(tmp_path, mine=source + "# more\n")
    assert foreseen(tmp_path, "mine:f", known, modules) == ["mine"]
