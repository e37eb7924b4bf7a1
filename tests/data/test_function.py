import dataclasses
import itertools

import jax
import numpy as np
import pytest
from synthetic import only_problem, sizes

from earlyprune_jax import data, user_code
from earlyprune_jax.validate import InvalidInput

HEAD = """
import numpy as np
calls = []
def rows(num, **more):
    return {"x": np.arange(num, dtype=np.float32)} | {k: v[:num] for k, v in more.items()}
"""
NUMBERS = itertools.count()


@pytest.fixture
def write(tmp_path, make_spec):
    """Writes a module whose `load` has the given lines, and gives the spec that names it."""

    def write_module(lines, arguments="", head="", **changes):
        name = f"mydata{next(NUMBERS)}"
        body = "".join(f"    {line}\n" for line in lines.strip().split("\n"))
        (tmp_path / f"{name}.py").write_text(
            f"{HEAD}{head}\ndef load(scale=1):\n    calls.append(scale)\n{body}"
        )
        keys = {"num_classes": 0, "mean": (), "std": ()} | changes
        return make_spec(f"{name}:load{arguments}", **keys)

    user_code.use_folder(tmp_path)
    yield write_module
    user_code.use_folder(None)


def calls_of(spec):
    return __import__(spec.name.partition(":")[0]).calls


TWO_LEVELS = """
y = {"source": np.arange(20).reshape(10, 2), "target": [[k, scale] for k in range(10)]}
test = {"x": np.ones((4, 3)), "y": {k: v[:4] for k, v in y.items()}}
return {"train": {"x": np.full((10, 3), np.nan), "y": y}, "test": test}
"""


def test_a_structure_without_labels_is_read_split_and_counted(write):
    spec = write(
        TWO_LEVELS, "(scale=7)", validation_fraction=0.3, train_fraction=0.5, test_fraction=0.5
    )
    assert data.check(spec) == []
    source = data.read(spec)
    assert not source.strata_of("train").any() and not source.holds_images
    assert source.train["y"]["target"].tolist() == [[k, 7] for k in range(10)]
    parts = data.split(source, spec)
    found = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), parts)
    assert data.shapes(spec) == found
    assert sizes(spec) == {"train": 4, "validation": 3, "test": 2}
    held = parts["validation"]["y"]
    assert np.array_equal(held["source"][:, 0], 2 * held["target"][:, 0]), "rows stay together"
    assert data.normalisation(source, spec) == ((), ())


def test_the_function_is_called_once_however_often_one_asks_and_again_for_other_arguments(write):
    spec = write('return {"train": rows(8), "test": rows(2)}')
    for ask in (data.check, data.shapes, data.read, data.load) * 2:
        ask(spec)
    assert calls_of(spec) == [1]
    data.read(dataclasses.replace(spec, name=f"{spec.name}(2)"))
    assert calls_of(spec) == [1, 2]


def test_changed_code_is_called_again(write, tmp_path):
    spec = write('return {"train": rows(8), "test": rows(2)}')
    first = data.read(spec).digest()
    file = tmp_path / f"{spec.name.partition(':')[0]}.py"
    file.write_text(file.read_text().replace("rows(8)", "rows(9)"))
    # Within an experiment code stays what it was; the next one looks again.
    assert data.read(spec).digest() == first
    user_code.refresh()
    assert sizes(spec)["train"] == 9
    assert data.read(spec).digest() != first


def test_whole_number_labels_stratify_and_others_do_not(write):
    labels = "np.repeat([-7, 3, 900], [10, 20, 30])"
    lines = 'return {{"train": rows(60, labels={0}), "test": rows(60, labels={0})}}'
    spec = write(lines.format(labels), validation_fraction=0.2, test_fraction=0.5)
    loaded = data.load(spec)
    assert np.unique(loaded["validation"]["labels"], return_counts=True)[1].tolist() == [2, 4, 6]
    assert np.unique(loaded["test"]["labels"], return_counts=True)[1].tolist() == [5, 10, 15]
    for others in (f"{labels} / 2", f"{labels}[:, None]"):
        assert not data.read(write(lines.format(others))).strata_of("train").any()


def test_fractions_that_leave_a_stratum_or_everything_out_are_refused(write):
    lines = (
        'return {"train": rows(60, labels=np.arange(60)), "test": rows(60, labels=np.arange(60))}'
    )
    problem = only_problem(write(lines, train_fraction=0.5))
    assert (
        "data.train_fraction=0.5 to give every class an example. It gives 30 of 60 examples"
        in problem
    )
    assert '"labels" that are no classes need another name' in problem
    bare = 'return {"train": rows(60), "test": rows(60)}'
    assert data.check(write(bare, train_fraction=0.5)) == []
    assert "to leave an example. It gives 0 of 60 examples. Raise it" in only_problem(
        write(bare, train_fraction=0.001)
    )
    assert "to leave an example. It gives 0 of 60 examples" in only_problem(
        write(bare, test_fraction=0.001)
    )


IMAGES = """
images = np.zeros((30, 6, 4, 2), np.uint8)
images[0] = 1
labels = np.arange(30) % 3
test = {"images": images[:9], "labels": labels[:9]}
return {"train": {"images": images, "labels": labels}, "test": test}
"""


def test_images_are_the_images_of_an_npz_archive(write, make_spec, tmp_path):
    spec = write(IMAGES, num_classes=3)
    images, labels = np.zeros((30, 6, 4, 2), np.uint8), np.arange(30) % 3
    images[0] = 1
    np.savez(
        tmp_path / "same.npz", x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9]
    )
    other = dataclasses.replace(spec, name=f"npz:{tmp_path}/same.npz")
    assert data.check(spec) == [] and data.read(spec).holds_images
    assert data.read(spec).digest() == data.read(other).digest()
    assert data.shapes(spec) == data.shapes(other)
    assert data.read(spec).train["labels"].dtype == np.int32


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("np.uint8", "np.float32", "dtype of train['images'] of mydata"),
        ("(30, 6, 4, 2)", "(30, 6, 4)", "to be [N, H, W, C]"),
        ("% 3", "/ 3", "'float64' to be an integer type"),
        ("% 3", "% 4", "=[3] in [0, 3). Set data.num_classes"),
        ("np.arange(30) % 3", "np.full(30, 2**63, np.uint64)", "=[9223372036854775808] in [0, 3)"),
        ("% 3", "- 1", "values of train['labels'] of mydata"),
        ("labels[:9]", "labels[:8]", "test['labels']\": 8"),
        ("images[:9]", "images[:9, :5]", "uint8[5, 4, 2]"),
    ],
)
def test_wrong_images_are_refused_by_name(write, old, new, message):
    spec = write(IMAGES.replace(old, new), num_classes=3)
    assert message in "\n".join(data.check(spec))
    with pytest.raises(InvalidInput):
        data.load(spec)


def test_shape_keys_of_images_are_checked(write):
    spec = write(IMAGES, num_classes=3, mean=(0.1,), std=(0.1,), crop_padding=4)
    keys = [problem.split("=")[0].removeprefix("Expected data.") for problem in data.check(spec)]
    assert keys == ["mean", "std", "crop_padding"]
    assert "data.num_classes=0 to be at least 2" in only_problem(write(IMAGES, num_classes=0))


def test_keys_of_images_are_refused_for_other_data(write):
    keys = {
        "num_classes": 10,
        "crop_padding": 4,
        "horizontal_flip": True,
        "mean": (0.5,),
        "std": (0.5,),
    }
    problems = data.check(
        write('return {"train": rows(8), "test": rows(2)}', **keys, data_dir="here")
    )
    wanted = (
        "data_dir",
        "num_classes=10 to be 0",
        "crop_padding=4 to be 0",
        "horizontal_flip=True to be False",
    )
    for problem, text in zip(
        problems, (*wanted, "mean=(0.5,) to be ()", "std=(0.5,) to be ()"), strict=True
    ):
        assert f"data.{text}" in problem
    assert all("It belongs to images" in problem for problem in problems[1:])
    assert data.check(write('return {"train": rows(8), "test": rows(2)}', num_classes=-3))


BROKEN = """
class Broken:
    def __array__(self, *_, **__):
        raise RuntimeError("gone")

class Torn(dict):
    def __getitem__(self, _):
        raise RuntimeError("gone")
"""


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("return None", "='None' to be a mapping. Return {'train'"),
        ("return rows(3), rows(2)", "to be a mapping"),
        ('return {"train": rows(3)}', "=['train'] to be train and test"),
        ('return {"train": rows(3), "test": rows(2), "val": rows(2)}', "data.validation_fraction"),
        ('return {"train": rows(3), "test": {}}', "test of"),
        ('return {"train": rows(3), "test": {1: np.ones(2)}}', "test of"),
        ('return {"train": rows(3), "test": None}', "to hold numbers"),
        (
            'return {"train": rows(3), "test": (np.ones(2), np.ones(2))}',
            "to be a mapping or an array",
        ),
        ('return {"train": rows(3), "test": {"x": [[1, 2], [3]]}}', "test['x'] of"),
        ('return {"train": rows(3), "test": {"x": ["a", "b"]}}', "='<U1' to hold numbers"),
        (
            'return {"train": rows(3), "test": {"x": [{1}, {2}]}}',
            "='object' to hold numbers",
        ),
        ('return {"train": rows(3), "test": {"x": np.zeros(2, "M8[s]")}}', "to hold numbers"),
        ('return {"train": rows(3), "test": {"x": np.float32(1)}}', "=() to have an axis"),
        (
            'return {"train": rows(3), "test": rows(0)}',
            "=(0,) to have an axis of at least one",
        ),
        (
            'return {"train": rows(3) | {"y": np.ones(4)}, "test": rows(2) | {"y": np.ones(2)}}',
            "lengths of",
        ),
        (
            'return {"train": rows(3), "test": rows(2) | {"y": np.ones(2)}}',
            "to be as one of train",
        ),
        ('return {"train": rows(3), "test": {"x": {"z": np.ones(2)}}}', "['x']['z']"),
        (
            'return {"train": rows(3), "test": np.ones(2)}',
            "={'': 'float64[]'} to be as one of train",
        ),
        (
            'return {"train": rows(3), "test": {"x": np.ones((2, 1), np.float32)}}',
            "'float32[1]'} to be as one of train",
        ),
        (
            'return {"train": rows(3), "test": {"x": np.ones(2)}}',
            "to be as one of train, {\"['x']\": 'float32[]'}",
        ),
        ('raise OSError("no such disk")', "to return data. It raised OSError: no such disk"),
        ("raise SystemExit(3)", "It raised SystemExit: 3"),
        (
            "return {'train': Broken(), 'test': [1]}",
            "'a Broken' to be a mapping or an array (RuntimeError: gone)",
        ),
        (
            "return {'train': Torn(a=1), 'test': [1]}",
            "'a Torn' to be a mapping or an array (RuntimeError: gone)",
        ),
    ],
)
def test_a_wrong_result_is_refused_by_name(write, lines, message):
    problem = only_problem(write(lines, head=BROKEN))
    assert message in problem and "mydata" in problem


def test_every_problem_of_a_result_is_reported(write):
    lines = 'return {"train": {"a": None, "b": "text", "c": {"d": []}}, "test": rows(2)}'
    problems = data.check(write(lines))
    for problem, text in zip(
        problems, ("train['a']", "train['b']", "train['c']['d']"), strict=True
    ):
        assert text in problem


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:load", "Looked for nowhere on the Python path"),
        ("json:loadz", "data.name='json:loadz' to name something that is there"),
        ("json:__doc__", "to name a class or function"),
        ("json:loads(", "literals"),
        ("json:loads", "It raised TypeError: loads() missing 1 required positional argument"),
    ],
)
def test_a_wrong_reference_is_refused(make_spec, name, message):
    assert message in only_problem(make_spec(name))


@pytest.mark.parametrize("dtype", [">f4", "bool", "float16", "complex64", "bfloat16"])
def test_plain_arrays_of_every_kind_of_number_are_taken_in_native_order(write, dtype):
    lines = f"""
import ml_dtypes
x = np.arange(6).astype({dtype!r})
return {{'train': x, 'test': x[:2]}}
"""
    source = data.read(write(lines))
    assert source.train.dtype == np.dtype(dtype).newbyteorder("=") and source.train.dtype.isnative
    assert np.array_equal(source.train, np.arange(6).astype(source.train.dtype))
    assert len(source.digest()) == 64


def test_the_arrays_of_the_user_stay_writable_while_the_sources_are_not(write):
    spec = write(
        'return {"train": {"x": TABLE}, "test": {"x": TABLE}}', head="TABLE = np.zeros((5, 2))"
    )
    source = data.read(spec)
    table = __import__(spec.name.partition(":")[0]).TABLE
    table[0] = 0
    assert np.shares_memory(table, source.train["x"])
    with pytest.raises(ValueError, match="read-only"):
        source.train["x"][0] = 1
