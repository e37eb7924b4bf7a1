"""A whole small study on WMT14 as TFDS prepares it, with paper B's config."""

from configs import translation
from earlyprune_jax import config, experiment, translate
from earlyprune_jax.run_records import RunRecords
from tests.data.synthetic import write_wmt14
from tests.translation.studies import NETWORK

PAIRS = {
    split: [(f"Satz {row} von {num}.", f"Sentence {row} of {num}.") for row in range(num)]
    for split, num in (("train", 60), ("validation", 4), ("test", 5))
}


def test_a_study_runs_on_a_prepared_directory_and_its_runs_translate(tmp_path):
    write_wmt14(tmp_path / "tfds", PAIRS)
    changes = {
        "data.name": "wmt14(first=50, vocabulary_size=40, max_tokens=30)",
        "data.data_dir": str(tmp_path / "tfds"),
        "model.name": NETWORK,
        "task.name": "translation(beam=1, extra_length=5)",
        "train.num_epochs": 1,
        "train.batch_size": 300,
        "schedule.warmup_steps": 2,
        "pruning.sparsities": (0.5,),
        "fork.epochs": (1,),
        "fork.trigger": "",
        "fork.fallback_epoch": 1,
        "fork.length": 1,
        "fork.num_replicates": 1,
        "fork.comparisons": (),
        "signals.names": (),
        "signals.num_examples": 20,
    }
    spec = config.resolve(translation.get_config("wmt14"), list(changes.items()))
    workdir = tmp_path / "run"
    assert "Runs: 2 finished, 0 diverged" in experiment.run(spec, workdir)
    for kind in ("trunks", "forks"):
        (run,) = (workdir / kind).iterdir()
        (last,) = RunRecords(run).read().epochs
        assert 0 <= last["test_bleu"] <= 100 and last["test_perplexity"] > 1
    assert len(translate.load(run)(["Satz 3 von 5.", ""])) == 2
