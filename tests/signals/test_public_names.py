"""What `earlyprune_jax.signals` offers is what its documentation says, and no module in its
place."""

import types

from earlyprune_jax import signals


def test_every_public_name_is_there_and_none_is_a_module():
    assert not [
        name
        for name, value in vars(signals).items()
        if isinstance(value, types.ModuleType) and value.__name__ != f"{signals.__name__}.{name}"
    ]


def test_the_measurements_are_functions():
    names = (
        *("fisher_trace", "kl_uniform", "random_distance", "gradient_norm"),
        *("mask_distance", "early_bird_distance", "weight_change"),
        *("model_similarity", "disagreement", "linear_cka", "linear_mode_connectivity"),
    )
    assert all(isinstance(getattr(signals, name), types.FunctionType) for name in names)
