"""`from earlyprune_jax import pruning` is for any JAX code: it brings in little."""

import subprocess
import sys

HEAVY = (
    "tensorflow",
    "tensorflow_datasets",
    "orbax",
    "flax",
    "matplotlib",
    "sklearn",
    "ml_collections",
    "equinox",
    "torch",
    "PIL",
    "pandas",
)


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print('\\n'.join(sys.modules))"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(printed.stdout.split())


def test_pruning_imports_no_data_sets_checkpoints_models_or_figures():
    loaded = modules_after("from earlyprune_jax import pruning")
    assert not {name.split(".")[0] for name in loaded} & set(HEAVY)


def test_pruning_takes_no_other_part_of_the_package():
    loaded = modules_after("from earlyprune_jax import pruning")
    parts = {name.split(".")[1] for name in loaded if name.startswith("earlyprune_jax.")}
    assert "pruning" in parts
    assert parts <= {"array_types", "leaving", "pruning", "storage", "validate"}


def test_every_public_name_is_documented():
    from earlyprune_jax import pruning

    public = [value for name, value in vars(pruning).items() if not name.startswith("_")]
    undocumented = [value for value in public if callable(value) and not value.__doc__]
    assert len(public) > 40
    assert not undocumented
