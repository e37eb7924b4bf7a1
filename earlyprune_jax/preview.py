"""What an experiment would do, for --dry_run: config, runs, steps, disk. Touches nothing."""

import json

import jax

from earlyprune_jax import data
from earlyprune_jax.grid import plan
from earlyprune_jax.spec import RunSpec
from earlyprune_jax.training import engine, optim, tasks


def preview(spec: RunSpec) -> str:
    """The resolved config, every run with its length, and the plan's cost, as text.

    Example:
        >>> from configs import digits
        >>> from earlyprune_jax import config
        >>> print(preview(config.resolve(digits.get_config())).splitlines()[-1])
        Disk: 150 checkpoints, about 57 MB
    """
    sizes = data.sizes(spec.data)
    per_epoch = data.steps_per_epoch(sizes.num_train, spec.train.batch_size)
    runs = plan.runs(spec)
    cost = plan.cost(spec, steps_per_epoch=per_epoch, state_bytes=_state_bytes(spec, sizes.image_shape))
    lines = [json.dumps(spec.to_dict(), indent=2), "", f"Runs (id {spec.run_id()}):"]
    for run in runs:
        num_epochs = run.training(spec, per_epoch).num_epochs
        most = "at most " * (spec.fork.when == "trigger")
        lines.append(f"  {run.directory}: {most}{num_epochs} epochs, {num_epochs * per_epoch} steps")
    if spec.fork.when == "trigger":
        lines.append(
            f"  {spec.fork.trigger} decides; dense and pruned part share {spec.train.num_epochs} epochs"
        )
    splits = f"{sizes.num_train} train, {sizes.num_validation} validation, {sizes.num_test} test"
    lines += [
        "",
        f"Images: {splits}; {per_epoch} steps an epoch",
        f"Total: {len(runs)} runs, {cost.num_epochs} epochs, {cost.num_steps} training steps",
        f"Disk: {cost.num_checkpoints} checkpoints, about {cost.disk_bytes / 1e6:.0f} MB",
    ]
    return "\n".join(lines)


def _state_bytes(spec: RunSpec, image_shape: tuple[int, int, int]) -> int:
    task = tasks.classification(
        spec.data, spec.model, precision=spec.train.precision, image_shape=image_shape
    )
    make = engine.state_maker(task, optim.sgd(spec.optim))
    return plan.tree_bytes(jax.eval_shape(make, jax.ShapeDtypeStruct((2,), "uint32")))
