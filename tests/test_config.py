"""Configs: every problem at once, in one wording, before anything is compiled or written."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import digits
from earlyprune_jax import config, main, spec_sections, triggers
from earlyprune_jax.grid import members
from earlyprune_jax.spec import Setting
from earlyprune_jax.triggers import Peak
from earlyprune_jax.validate import InvalidInput

MINIMAL = {"data.train_fraction": "0.5"}
ONLINE = [("fork.when", "trigger"), ("fork.fallback_epoch", "0")]


def problems(overrides: dict[str, str], base=None) -> tuple[str, ...]:
    with pytest.raises(InvalidInput) as caught:
        config.resolve(base or digits.get_config(), list(overrides.items()))
    return caught.value.problems


def test_overrides_are_read_as_the_type_of_their_key():
    spec = config.resolve(
        digits.get_config(),
        [
            ("optim.learning_rate", "5e-2"),
            ("optim.nesterov", "true"),
            ("train.seeds", "(3, 4)"),
            ("pruning.sparsities", "0.5,0.9"),
            ("fork.retraining", "paper_a,matched_anneal"),
            ("fork.epochs", "2"),
        ],
    )
    assert spec.optim.learning_rate == 0.05
    assert spec.optim.nesterov is True
    assert spec.train.seeds == (3, 4)
    assert spec.pruning.sparsities == (0.5, 0.9)
    assert spec.fork.retraining == ("paper_a", "matched_anneal")
    assert spec.fork.epochs == (2,)


def test_the_study_id_follows_the_content_and_not_the_axes():
    spec = config.resolve(digits.get_config())
    same = config.resolve(digits.get_config(), [("optim.learning_rate", "0.10")])
    other = config.resolve(digits.get_config(), [("optim.learning_rate", "0.11")])
    longer = config.resolve(digits.get_config(), [("fork.epochs", "1,2,3"), ("train.seeds", "7")])
    assert spec.study_id() == same.study_id() == longer.study_id() != other.study_id()
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.optim.learning_rate = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("optim.learning_rate", "nan", "in (0, 3.4e+38]"),
        ("optim.learning_rate", "inf", "in (0, 3.4e+38]"),
        ("optim.learning_rate", "fast", "to be a number"),
        ("optim.momentum", "1.0", "in [0, 1)"),
        ("optim.lerning_rate", "0.1", "Did you mean 'optim.learning_rate'?"),
        ("learning_rate", "0.1", "Did you mean 'optim.learning_rate'?"),
        ("train.num_epochs", "-5", "in [1, 1000000]"),
        ("train.num_epochs", "4.5", "to be a whole number"),
        ("train.seeds", "1,1", "to have no element twice"),
        ("pruning.sparsities", "", "at least 1 element"),
        ("train.precision", "float16", "one of float32, bfloat16"),
        ("train.batch_size", "601", "in [1, 600]"),
        ("pruning.sparsities", "1.0", "in [0, 1)"),
        ("pruning.sparsities", "0.5,-0.1", "in [0, 1)"),
        ("pruning.sparsities", "0.5,97", "every element in [0, 1): did you mean 0.97?"),
        ("pruning.sparsities", "1.2", "to have every element in [0, 1)."),
        ("data.train_fraction", "40", "in (0, 1]: did you mean 0.4?"),
        ("signals.mask_sparsity", "100", "in [0, 1)."),
        ("pruning.criteria", "magnitud", "Did you mean 'magnitude'?"),
        ("pruning.layers", "regex:no_such_layer", "to select at least one parameter"),
        ("fork.epochs", "2,41", "no epoch beyond 39"),
        ("fork.epochs", "40", "no epoch beyond 39"),
        ("fork.retraining", "paper_b", "one of paper_a"),
        ("schedule.name", "exponentail", "Did you mean 'exponential'?"),
        ("model.name", "resnet2O", "Did you mean 'resnet20'?"),
        ("data.name", "cifar11", "cifar10"),
        ("data.validation_fraction", "1.0", "in [0, 1)"),
        ("signals.fisher_estimator", "exact,", "one of exact"),
        ("train.seeds", "4294967296", "in [0, 4294967295]"),
        ("train.num_epochs", "9" * 30, "in [1, 1000000]"),
        ("model.width_multiplier", "1e300", "in [0.001, 100]"),
        ("model.width_multiplier", "1e-320", "in [0.001, 100]"),
        ("data.std", "1e-320", "in [1e-06, 1000000]"),
        ("optim.learning_rate", "1e-320", "what float32 holds: 0, or 1.2e-38 to 3.4e+38"),
        ("optim.weight_decay", "1e-320", "what float32 holds: 0, or 1.2e-38 to 3.4e+38"),
        ("schedule.end_learning_rate", "1e300", "what float32 holds: 0, or 1.2e-38 to 3.4e+38"),
        ("optim.learning_rate", "1e300", "in (0, 3.4e+38]"),
        ("train.epochs", "3", "Did you mean 'train.num_epochs'?"),
        ("signals.num_examples", "601", "to be at most 600"),
        ("optim.nesterov", "maybe", "true or false"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(key, text, words):
    found = problems({key: text})
    assert len(found) == 1
    assert words in found[0]
    assert key.split(".")[-1] in found[0]


def test_layers_that_a_network_lacks_are_one_problem_with_its_keys_and_what_to_set():
    changes = {"model.name": "own_code:Linear", "model.width_multiplier": "1.0"}
    keys = ["pruning.layers", "signals.fisher_layers", "signals.weight_layers"]
    (found,) = problems(changes)
    assert found.startswith(f"{', '.join(keys)}: Expected layers='conv_kernels' to select")
    assert found.endswith("Set them to dense_kernels.")
    (found,) = problems(changes | dict.fromkeys(keys[1:], "dense_kernels"))
    assert found.startswith("pruning.layers: ") and found.endswith("Set it to dense_kernels.")


def test_every_problem_is_reported_together():
    found = problems(
        {
            "optim.learning_rate": "nan",
            "train.num_epochs": "0",
            "model.name": "resnet21",
            "pruning.sparsities": "2",
            "no.such": "1",
            "data.name": "npz:/nowhere/at/all.npz",
            "signals.fisher_layers": "regex:(",
            "fork.retraining": "paper_c",
        }
    )
    assert len(found) == 8


def test_facts_of_sound_sections_are_checked_beside_broken_ones():
    found = problems(
        {"optim.momentum": "2", "train.batch_size": "-5", "fork.epochs": "99", "data.mean": "7"}
    )
    assert [problem.split("=")[0] for problem in found] == [
        "Expected data.mean",
        "Expected train.batch_size",
        "Expected optim.momentum",
        "Expected fork.epochs",
    ]


def test_missing_and_unknown_keys_of_a_file_are_named():
    values = digits.get_config().to_dict()
    values["optim"]["momentun"] = values["optim"].pop("momentum")
    values["extra"] = 1
    text = "\n".join(problems({}, ConfigDict(values)))
    assert "Missing config key 'optim.momentum'" in text
    assert "Unknown config key 'optim.momentun'. Did you mean 'optim.momentum'?" in text
    assert "Unknown config key 'extra'" in text


def test_a_wrong_type_in_a_file_is_named():
    values = digits.get_config().to_dict()
    values["train"]["num_epochs"] = "forty"
    values["optim"]["nesterov"] = 1
    values["pruning"]["sparsities"] = 0.9
    text = "\n".join(problems({}, ConfigDict(values)))
    assert "train.num_epochs='forty' to be a whole number" in text
    assert "optim.nesterov=1 to be true or false" in text
    assert "pruning.sparsities=0.9 to be numbers separated by commas" in text


def test_local_pruning_that_empties_a_layer_is_refused_before_training():
    (found,) = problems({"pruning.scopes": "local", "pruning.sparsities": "0.999"})
    assert "108 of 108 at stem_conv/kernel" in found


def test_the_batch_estimator_with_other_labels_is_refused():
    (found,) = problems({"signals.fisher_method": "batch", "signals.fisher_estimator": "argmax"})
    assert "Only labels drawn from the model are unbiased there" in found


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (
            {"x_train": np.zeros((8, 8, 7, 1), np.uint8)},
            "to be as one of train, {\"['images']\": 'uint8[8, 7, 1]'",
        ),
        ({"y_train": np.array([0, 1, 2, 3, 0, 1, 2, 3])}, "[0, 2)"),
        ({"y_train": None}, "y_train"),
    ],
)
def test_a_broken_npz_exits_2_and_writes_nothing(tmp_path, capsys, arrays, words):
    sound = {
        "x_train": np.zeros((8, 8, 8, 1), np.uint8),
        "y_train": np.arange(8) % 2,
        "x_test": np.zeros((4, 8, 8, 1), np.uint8),
        "y_test": np.arange(4) % 2,
    }
    saved = {name: array for name, array in (sound | arrays).items() if array is not None}
    np.savez(tmp_path / "data.npz", **saved)
    arguments = [
        "--config=configs/digits.py",
        f"--config.data.name=npz:{tmp_path / 'data.npz'}",
        "--config.data.num_classes=2",
        f"--workdir={tmp_path / 'run'}",
    ]
    assert main.main(arguments) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_missing_data_directory_exits_2_and_says_how_to_get_it(tmp_path, capsys):
    arguments = [
        "--config=configs/cifar10.py",
        f"--config.data.data_dir={tmp_path / 'absent'}",
        f"--workdir={tmp_path / 'run'}",
    ]
    assert main.main(arguments) == 2
    assert "earlyprune_jax.data.prepare" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--config=configs/nothing.py"],
        ["--config=README.md"],
        ["--config=configs/digits.py", "--confg=1"],
    ],
)
def test_unusable_arguments_exit_2(arguments, capsys):
    assert main.main(arguments) == 2
    assert "problem" in capsys.readouterr().err


def test_help_exits_0_and_explains_every_key(capsys):
    assert main.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(key in text for key in spec_sections.KEYS)
    assert all(f"--{flag} " in text for flag in (*main.SWITCHES, *main.VALUES))
    assert spec_sections.MEANINGS.keys() == spec_sections.KEYS.keys()


def test_help_for_a_reader_who_leaves_early_ends_without_a_traceback():
    command = f"{sys.executable} -m earlyprune_jax.main --help | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("Trains dense trunks") and done.stderr == ""


def test_dry_run_touches_nothing(tmp_path, capsys, monkeypatch):
    root = main.__file__
    monkeypatch.chdir(tmp_path)
    config_file = f"{root.rsplit('/', 2)[0]}/configs/digits.py"
    assert main.main([f"--config={config_file}", "--dry_run", "--config.train.num_epochs=50"]) == 0
    text = capsys.readouterr().out
    assert '"num_epochs": 50' in text
    assert re.search(r"resnet8 +trunks .* 3 +150 +1350 ", text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers=many"], "--workers='many' to be a number"),
        (["--fork_width=wide"], "--fork_width='wide' to be a number"),
        (["--max_minutes=soon"], "--max_minutes='soon' to be a number"),
        (["--max_minutes=-1"], "--max_minutes=-1.0 to be above 0"),
        (["--measure"], "--measure with --dry_run"),
    ],
)
def test_options_that_cannot_be_used_exit_2(arguments, words, tmp_path, capsys):
    assert (
        main.main(["--config=configs/digits.py", f"--workdir={tmp_path / 'run'}", *arguments]) == 2
    )
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_options_and_keys_that_cannot_be_used_are_named_together(tmp_path, capsys):
    arguments = ["--config=configs/digits.py", f"--workdir={tmp_path / 'run'}"]
    assert main.main([*arguments, "--workers=99999", "--config.fork.search=coarse"]) == 2
    problems = capsys.readouterr().err
    assert "2 problems" in problems and "--workers=99999" in problems and "fork.search" in problems


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, earlyprune_jax; print([m for m in ('jax', 'flax', 'numpy') if m in "
        "sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"


def test_pruning_imports_neither_data_sets_nor_checkpoints():
    code = (
        "import sys; from earlyprune_jax import pruning;"
        "print([m for m in ('tensorflow_datasets', 'orbax', 'flax', 'sklearn') if m in "
        "sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"


def test_a_replayed_rule_may_name_any_signal_but_none_that_there_is_not():
    changes = [("fork.trigger", "peak(gradient_norm)"), ("signals.names", "kl_uniform")]
    resolved = config.resolve(digits.get_config(), changes).fork.trigger
    assert triggers.label(resolved) == "peak(gradient_norm)"
    (found,) = problems({"fork.trigger": "peak(nonsense)"})
    assert "column='nonsense' to be one of" in found


def test_a_rule_is_held_with_every_option_written_out_so_that_changed_defaults_are_other_runs():
    def resolved(text):
        return config.resolve(digits.get_config(), [*ONLINE, ("fork.trigger", text)])

    short, long = resolved(" peak( fisher_trace )"), resolved(str(Peak("fisher_trace")))
    assert short.to_dict()["fork"]["trigger"] == str(Peak("fisher_trace"))
    ids = [members.directory(spec, members.Trunk(Setting(), 0)) for spec in (short, long)]
    assert short.study_id() == long.study_id() and ids[0] == ids[1]
    other = resolved("peak(fisher_trace, smoothing=1)")
    assert members.directory(other, members.Trunk(Setting(), 0)) != ids[0]


def test_a_minimum_that_leaves_no_layer_a_spectrum_is_refused_before_anything_is_written():
    (found,) = problems({"signals.min_eigenvalues": "100000"})
    assert "fewer than 100000" in found
