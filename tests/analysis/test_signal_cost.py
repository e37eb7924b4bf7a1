import workdirs

from earlyprune_jax.analysis import summary


def write_trunk(workdir, *, train=2.0, signals=None, num_epochs=2, seed=0):
    made = workdirs.records(0, [0.5] * num_epochs)
    for record in made:
        record |= {"train_seconds": train, "signal_seconds": signals or {}}
    workdirs.write_trunk(
        workdir, seed, made, last_epoch=num_epochs, result=workdirs.finished(num_epochs)
    )


def summed_up(workdir) -> str:
    return " ".join(summary.summarize(workdir).split())


def test_shares_are_of_the_training_time_of_all_trunks_the_dearest_first(tmp_path):
    # 8 s of training; 1.6 + .24 + .08 + .008 + .0016 s of signals.
    costs = {
        "mask_distance": 0.002,
        "kl_uniform": 0.06,
        "fisher_trace": 0.4,
        "random_distance": 0.02,
    }
    write_trunk(tmp_path, signals=costs | {"gradient_norm": 0.0004})
    write_trunk(tmp_path, signals=costs | {"gradient_norm": 0.0004}, seed=1)
    assert (
        "Signals took 24 % of the training time (tr(F) 20 %, KL_uniform 3 %, random distance 1 %, "
        "mask_distance 0.1 %, gradient_norm 0.02 %)." in summed_up(tmp_path)
    )


def test_nothing_is_said_where_nothing_was_timed(tmp_path):
    workdirs.write_trunk(tmp_path, 0, workdirs.records(0, [0.5]), result=workdirs.finished(1))
    assert "Signals took" not in summary.summarize(tmp_path)


def test_what_the_budget_left_out_is_named(tmp_path):
    budget = {
        "max_overhead_fraction": 0.05,
        "num_examples": 1200,
        "signals": {
            "fisher_trace": {"num_examples": 500, "every_epochs": 1},
            "kl_uniform": {"num_examples": 1200, "every_epochs": 1},
            "random_distance": {"num_examples": None, "every_epochs": 3},
            "gradient_norm": {"num_examples": 128, "every_epochs": 2},
        },
    }
    expected = (
        "To stay within 5 %, tr(F) looked at 500 of 1200 examples, every 1 epoch; random distance "
        "looked at 1200 of 1200 examples, every 3 epochs; gradient_norm looked at 128 of 1200 "
        "examples, every 2 epochs."
    )
    (tmp_path / "signal_budgets").mkdir()
    workdirs.write_of_study(tmp_path, "signal_budgets/resnet8_1.json", budget)
    write_trunk(tmp_path, signals={"fisher_trace": 0.1})
    assert f"Signals took 5 % of the training time (tr(F) 5 %). {expected}" in summed_up(tmp_path)


def test_a_budget_that_left_nothing_out_is_not_mentioned(tmp_path):
    budget = {
        "max_overhead_fraction": 0.05,
        "num_examples": 9,
        "signals": {"x": {"num_examples": 9, "every_epochs": 1}},
    }
    (tmp_path / "signal_budgets").mkdir()
    workdirs.write_of_study(tmp_path, "signal_budgets/resnet8_1.json", budget)
    write_trunk(tmp_path)
    assert "To stay within" not in summed_up(tmp_path)
