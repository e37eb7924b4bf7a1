"""Under which software and hardware a run's epochs were trained, and who minds."""

import io
import signal

import pytest
from rich.console import Console

from earlyprune_jax import config, experiment
from earlyprune_jax.grid import signature
from earlyprune_jax.grid.options import Options
from earlyprune_jax.run_records import RunRecords
from earlyprune_jax.validate import InvalidInput
from tests.tiny import linear_experiment


def run(spec, workdir, **options):
    console = Console(file=io.StringIO())
    experiment.run(spec, workdir, console, options=Options(**options))
    return console.file.getvalue()  # type: ignore[attr-defined]


def executions(workdir, folder):
    (path,) = workdir.glob(f"{folder}/*/")
    return (RunRecords(path).description() or {})["executions"]


@pytest.fixture
def begun(tiny_npz, tmp_path):
    """A study that was stopped with three of its trunk's four epochs on record; its spec."""
    spec = config.resolve(linear_experiment(tiny_npz))
    reported = []

    def stop_after_three(records, entry):
        reported.append(append(records, entry))
        if len(reported) == 3:
            signal.raise_signal(signal.SIGINT)
        return entry

    append = RunRecords.append
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunRecords, "append", stop_after_three)
        with pytest.raises(KeyboardInterrupt):
            run(spec, tmp_path / "run")
    return spec, tmp_path / "run"


def test_a_run_that_goes_on_elsewhere_says_so_and_has_both_signatures(begun, monkeypatch):
    spec, workdir = begun
    here = signature.signature()
    monkeypatch.setattr(signature, "signature", lambda: here | {"device": "another"})
    with pytest.raises(InvalidInput, match=r"device .* -> another"):
        run(spec, workdir, require_exact=True)
    said = run(spec, workdir)
    # The third epoch is on record and was not saved: it is trained again.
    words = f"goes on after epoch 2 with device {here['device']} -> another: no longer bitwise"
    assert words in " ".join(said.split())
    assert [each["from_epoch"] for each in executions(workdir, "trunks")] == [0, 2]
    assert [each["device"] for each in executions(workdir, "forks")] == ["another"]
    monkeypatch.setattr(signature, "signature", lambda: here)
    with pytest.raises(InvalidInput, match="2 runs were made under another signature"):
        run(spec, workdir, require_exact=True)


def test_one_that_goes_on_here_says_nothing_and_is_exact(begun):
    spec, workdir = begun
    assert "goes on" not in run(spec, workdir, require_exact=True)
    assert [each["from_epoch"] for each in executions(workdir, "trunks")] == [0]


def test_workers_have_fewer_cores_each_and_that_is_another_signature(begun, monkeypatch):
    spec, workdir = begun
    monkeypatch.setattr(signature.running, "usable_cores", lambda: list(range(64)))
    monkeypatch.setattr(experiment.running, "usable_cores", lambda: list(range(64)))
    with pytest.raises(InvalidInput, match="num_cores"):
        run(spec, workdir, require_exact=True)


def test_flags_of_the_compiler_are_part_of_a_signature(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--one=1")
    then = signature.signature()
    monkeypatch.setenv("XLA_FLAGS", "--two=2")
    assert signature.differences(then, signature.signature()) == ["XLA_FLAGS --one=1 -> --two=2"]
