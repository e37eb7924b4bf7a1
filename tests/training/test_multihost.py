"""What is asked before processes join, what travels between them, and that one process changes
nothing."""

import pickle
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from earlyprune_jax import main
from earlyprune_jax.training import multihost
from earlyprune_jax.validate import InvalidInput

DIGITS = Path(__file__).parent.parent.parent / "configs" / "digits.py"


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("host:1", 2, None), ["--process_id"]),
        ((None, 2, 0), ["--coordinator"]),
        (("host:1", None, None), ["--num_processes", "--process_id"]),
        (("host", 2, 0), ["--coordinator"]),
        ((":80", 2, 0), ["--coordinator"]),
        (("host:port", 2, 0), ["--coordinator"]),
        (("host:0", 2, 0), ["--coordinator"]),
        (("host:65536", 2, 0), ["--coordinator"]),
        (("host:1", 0, 0), ["--num_processes"]),
        (("host:1", 2, 2), ["--process_id"]),
        (("host:1", 2, -1), ["--process_id"]),
        (("host", 0, 0), ["--coordinator", "--num_processes"]),
    ],
)
def test_wrong_addresses_are_named_all_at_once_and_start_nothing(flags, named):
    text = " ".join(multihost.problems(*flags))
    assert all(f"{name}" in text for name in named)
    with pytest.raises(InvalidInput):
        multihost.initialize(*flags)


@pytest.mark.parametrize(
    "flags", [(None, None, None), ("[::1]:1234", 1, 0), ("head-node:65535", 64, 63)]
)
def test_right_addresses_have_no_problems(flags):
    assert multihost.problems(*flags) == []


def test_one_process_is_the_primary_and_keeps_its_own_objects():
    tree = {"a": jnp.ones(3), "b": [np.zeros(2)]}
    assert multihost.is_primary()
    assert multihost.primary_only(tree) is tree
    with multihost.leading(tree) as led:
        assert led is tree
    assert multihost.on_primary(lambda: tree) is tree
    multihost.require_same("config", "anything")
    multihost.require_same_error(ValueError())


def test_one_process_raises_its_own_exceptions():
    def fail():
        raise InvalidInput(["first", "second"])

    with pytest.raises(InvalidInput) as caught:
        multihost.on_primary(fail)
    assert caught.value.problems == ("first", "second")


def test_the_problems_of_bad_input_survive_a_journey():
    arrived = pickle.loads(pickle.dumps(InvalidInput(["first", "second"])))
    assert isinstance(arrived, InvalidInput)
    assert arrived.problems == ("first", "second")
    assert str(arrived) == "first\nsecond"


def test_flags_that_do_not_go_with_several_hosts_are_named_beside_a_wrong_config(capsys):
    flags = ["--distributed", "--process_id=1", "--workers=2", "--fork_width=4", "--slurm"]
    assert (
        main.main([f"--config={DIGITS}", "--config.train.num_epochs=0", *flags]) == main.BAD_INPUT
    )
    text = capsys.readouterr().err
    for named in (
        "--coordinator",
        "--workers=2",
        "--fork_width=4",
        "no --slurm",
        "train.num_epochs=0",
    ):
        assert named in text
