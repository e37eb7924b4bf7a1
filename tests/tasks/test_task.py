"""A task of the user's: what it is asked for, what is refused before anything compiles, what it
reports."""

import dataclasses
import functools
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from tiny import linear_experiment

from earlyprune_jax import config, models, pruning, tasks
from earlyprune_jax.metrics import Metric
from earlyprune_jax.tasks import HostMeasurement, Task, plain
from earlyprune_jax.tasks.task import check
from earlyprune_jax.validate import InvalidInput

SPLITS = {"train": {"x": np.ones((6, 2), np.float32)}, "test": {"x": np.ones((3, 2), np.float32)}}


def sums(params, batch):
    errors = batch["x"] @ params["w"]
    return {"loss": jnp.sum(errors**2), "count": jnp.float32(len(errors))}


def task(**changes) -> Task:
    made = Task(
        splits=SPLITS,
        batching=plain(SPLITS, 2),
        init=lambda key: {"params": {"w": jnp.ones(2)}, "seen": {"steps": jnp.zeros(())}},
        train_sums=lambda params, model_state, batch, key: (sums(params, batch), model_state),
        eval_sums=lambda params, model_state, batch: sums(params, batch),
        metrics=(Metric("loss", larger_is_better=False),),
        primary="loss",
    )
    return dataclasses.replace(made, **changes)


def raises(*arguments):
    raise KeyError("no such thing")


ERROR = Metric("error", "%", larger_is_better=False)
WRONG = {
    "not a Task": (SPLITS, "to be a Task"),
    "no primary": (task(primary="accuracy"), "task.primary='accuracy' to be one of loss"),
    "no test split": (task(splits={"train": SPLITS["train"]}), "to hold test"),
    "a metric twice": (task(metrics=(Metric("loss"), Metric("loss"))), "to have no name twice"),
    "sums of examples": (
        task(eval_sums=lambda p, s, batch: sums(p, batch) | {"loss": batch["x"][:, 0]}),
        "eval_sums['loss']='float32[2]' to be one floating-point number",
    ),
    "a whole number": (
        task(
            eval_sums=lambda p, s, batch: sums(p, batch) | {"count": len(batch["x"]) + jnp.int32(0)}
        ),
        "eval_sums['count']='int32[]' to be one floating-point number",
    ),
    "a sum that is not named": (
        task(train_sums=lambda p, s, batch, key: (sums(p, batch) | {"more": jnp.zeros(())}, s)),
        "names of train_sums=['count', 'loss', 'more'] to be ['count', 'loss']",
    ),
    "a metric without a sum": (
        task(metrics=(Metric("loss"), ERROR)),
        "to be ['count', 'error', 'loss']",
    ),
    "no sums": (task(eval_sums=lambda p, s, batch: jnp.zeros(())), "to return a mapping"),
    "another state": (
        task(train_sums=lambda p, s, batch, key: (sums(p, batch), {})),
        "model_state of train_sums",
    ),
    "an init that raises": (
        task(init=raises),
        "make variables. It raised KeyError: 'no such thing'",
    ),
    "another number of steps": (
        task(batching=dataclasses.replace(task().batching, steps_per_epoch=9)),
        "task.batching.steps_per_epoch=9 to be the number of batches in an epoch",
    ),
    "a batch that raises": (
        task(batching=plain(SPLITS, 2, raises)),
        "raised KeyError: 'no such thing'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_task_is_refused_with_what_is_wrong(name):
    wrong, words = WRONG[name]
    assert words in "\n".join(check(wrong))


def test_a_sound_task_has_no_problems_and_own_sums_need_their_metrics_made():
    assert check(task()) == []
    own = task(
        train_sums=lambda p, s, batch, key: ({**sums(p, batch), "wrong": jnp.ones(())}, s),
        eval_sums=lambda p, s, batch: {**sums(p, batch), "wrong": jnp.ones(())},
        sums=("loss", "count", "wrong"),
        values=lambda totals: {
            "loss": totals["loss"] / totals["count"],
            "error": totals["wrong"] / 10,
        },
        metrics=(Metric("loss", larger_is_better=False), ERROR),
        primary="error",
    )
    assert check(own) == []
    assert own.sum_names == ("loss", "count", "wrong")
    assert own.measured({"loss": np.float32(6), "count": 3.0, "wrong": 5}) == {
        "loss": 2.0,
        "error": 0.5,
    }
    assert task().measured({"loss": 6.0, "count": 4.0}) == {"loss": 1.5}


def test_a_host_metric_may_be_the_primary_and_a_trigger_may_watch_its_validation_only():
    bleu = HostMeasurement(
        (Metric("bleu"),), lambda variables, split: {"bleu": 1.0}, every_epochs=3
    )
    splits = SPLITS | {"validation": SPLITS["test"]}
    own = task(host=(bleu,), primary="bleu", splits=splits)
    assert check(own) == []
    assert [metric.name for metric in own.all_metrics] == ["loss", "bleu"]
    assert own.decidable_columns() == ("train_loss", "validation_loss", "validation_bleu")
    assert [epoch for epoch in range(1, 9) if bleu.due(epoch, 8)] == [3, 6, 8]


class Heads(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.DenseGeneral((2, 3), use_bias=False, name="make")(x)
        return nn.DenseGeneral(4, axis=(-2, -1), use_bias=False, name="join")(x)


def test_the_layers_of_a_network_of_linen_say_what_their_axes_are_and_the_task_says_the_rest():
    def init(key):
        params = Heads().init(key, jnp.ones((1, 5)))["params"]
        return {"params": {**params, "own": {"kernel": jnp.ones((3, 2, 5))}}}

    with_heads = task(init=init, layouts={"own": "NIO"})
    params = with_heads.shapes()["params"]
    found = pruning.layouts.find(params, with_heads.known_layouts)
    kinds = {path: str(layout) for path, layout in found.items()}
    assert kinds == {"make/kernel": "INO", "join/kernel": "NIO", "own/kernel": "NIO"}
    assert {str(layout) for layout in pruning.layouts.find(params).values()} == {"WIO?"}


OWN = """
import jax.numpy as jnp
import numpy as np
from earlyprune_jax.tasks import Metric, Task, plain


def load():
    x = np.arange(12, dtype=np.float32)
    rows = {"x": x.reshape(12, 1), "y": 2 * x}
    return {"train": rows, "test": {name: value[:4] for name, value in rows.items()}}


def regression(splits, model, batch_size, *, primary="loss"):
    def sums(params, batch):
        errors = (batch["x"] @ params["kernel"])[:, 0] - batch["y"]
        weights = batch.get("weights", jnp.ones(len(errors)))
        return {"loss": jnp.sum(weights * errors**2) / 2, "count": jnp.sum(weights)}

    return Task(
        splits=splits,
        batching=plain(splits, batch_size),
        init=lambda key: {"params": {"kernel": jnp.zeros((1, 1))}},
        train_sums=lambda params, model_state, batch, key: (sums(params, batch), model_state),
        eval_sums=lambda params, model_state, batch: sums(params, batch),
        metrics=(Metric("loss", larger_is_better=False),),
        primary=primary,
    )


def nothing(splits, model):
    return None
"""


def resolve(folder: Path, **changes: str):
    (folder / "regress.py").write_text(OWN)
    overrides = {
        "data.name": "regress:load",
        "data.num_classes": "0",
        "data.crop_padding": "0",
        "data.horizontal_flip": "false",
        "data.mean": "",
        "data.std": "",
        "task.name": "regress:regression",
        "train.batch_size": "4",
        "fork.trigger": "peak(weight_change)",
        "pruning.layers": "all_kernels",
        "signals.fisher_layers": "",
        "signals.weight_layers": "",
        "signals.num_examples": "0",
        **{name.replace("__", "."): text for name, text in changes.items()},
    }
    return config.resolve(
        linear_experiment(Path("none.npz")), list(overrides.items()), folder=folder
    )


def test_an_own_task_is_made_from_its_data_with_what_it_takes(tmp_path):
    spec = resolve(tmp_path)
    made = tasks.abstract(spec)
    assert made.batching.num_examples == {"train": 12, "test": 4}
    assert made.batching.steps_per_epoch == 3
    assert [path for path, _ in spec.code] == [
        "own_code:Linear",
        "regress:load",
        "regress:regression",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"task__name": "regress:nothing"},
            "task.name: regress:nothing: Expected task='NoneType' to be a Task",
        ),
        (
            {"task__name": "regress:regression(primary='error')"},
            "task.primary='error' to be one of loss",
        ),
        ({"task__name": "classification"}, "to be images and labels"),
        ({"task__name": "clasification"}, "Did you mean 'classification'?"),
        (
            {"signals__names": "kl_uniform"},
            "signals.names='kl_uniform' to need no log-probabilities",
        ),
        ({"pruning__criteria": "fisher"}, "pruning.criteria='fisher' to need no log-probabilities"),
        (
            {"fork__comparisons": "disagreement", "fork__num_replicates": "2"},
            "fork.comparisons='disagreement'",
        ),
    ],
)
def test_what_an_own_task_does_not_have_is_refused_by_name(tmp_path, changes, words):
    with pytest.raises(InvalidInput) as caught:
        resolve(tmp_path, **changes)
    assert words in str(caught.value)


NETWORKS = """
from flax import linen as nn


class Net(nn.Module):
    num_classes: int
    fault: str = ""

    @nn.compact
    def __call__(self, x):
        if self.fault == "typo":
            x = x.nope
        x = nn.Conv(self.num_classes + (self.fault == "wide"), (3, 3), name="conv")(x)
        return x if self.fault == "images" else x.mean((1, 2))
"""


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("typo", "has no attribute nope ({file}:12)."),
        ("wide", "Expected output of the network=(8, 3) to be [N, data.num_classes]=(8, 2)."),
        ("images", "network=(8, 8, 8, 2) to be [N, data.num_classes]=(8, 2)."),
    ],
)
def test_an_own_network_that_fails_is_told_by_its_line_or_its_shape(
    tiny_npz, tmp_path, fault, words
):
    file = tmp_path / "faulty_nets.py"
    file.write_text(NETWORKS)
    with pytest.raises(InvalidInput) as caught:
        changes = [("model.name", f"faulty_nets:Net(fault='{fault}')")]
        config.resolve(linear_experiment(tiny_npz), changes, folder=tmp_path)
    assert words.format(file=file) in str(caught.value)


FACTORY = """
import functools

from earlyprune_jax import models

net = functools.partial(models.build, "resnet8", width_multiplier=WIDTH)
"""


def test_a_network_is_traced_once_and_anew_where_its_file_its_data_or_the_notebook_has_changed(
    tiny_npz, tmp_path, monkeypatch
):
    def resolved(model, npz=tiny_npz):
        changes = [("model.name", model), ("pruning.layers", "all_kernels")]
        task = tasks.abstract(config.resolve(linear_experiment(npz), changes, folder=tmp_path))
        return task, int(task.shapes()["params"]["classifier"]["kernel"].shape[0])

    nets = tmp_path / "edited_nets.py"
    nets.write_text(FACTORY.replace("WIDTH", "0.25"))
    first, num_inputs = resolved("edited_nets:net")
    assert (num_inputs, list(first.splits)) == (16, ["train", "test"])
    assert resolved("edited_nets:net")[0] is first
    nets.write_text(FACTORY.replace("WIDTH", "0.5"))
    assert resolved("edited_nets:net")[1] == 32
    arrays = dict(np.load(tiny_npz))
    fewer = {name: array[:20] if name[2:] == "train" else array for name, array in arrays.items()}
    np.savez(tmp_path / "fewer.npz", **fewer)
    task, _ = resolved("edited_nets:net", tmp_path / "fewer.npz")
    assert task.batching.num_examples["train"] == 20
    for width in (0.25, 0.5):
        own = functools.partial(models.build, "resnet8", width_multiplier=width)
        monkeypatch.setattr(sys.modules["__main__"], "notebook_net", own, raising=False)
        assert resolved("__main__:notebook_net")[1] == 64 * width
