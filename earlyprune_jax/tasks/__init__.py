"""What is learnt: the contract between the engine and data, network and loss.

    Task             a frozen bundle of pure functions; see docs/extending.md
    HostMeasurement  metrics measured outside of compiled code
    Metric           name, unit and direction of a metric
    plain, bucketed  batches of one shape, or of several
    build            the task of an experiment: `classification`, or module:function

A task's maker is a function (splits, model, **options) -> Task. Of batch_size, precision,
num_classes, mean, std, crop_padding and horizontal_flip, which are the config's, it is given those
that it takes by name.
"""

from earlyprune_jax.metrics import Metric
from earlyprune_jax.signals.signal import Network
from earlyprune_jax.tasks.batching import Batches, Batching, bucketed, gather, padded_batches, plain
from earlyprune_jax.tasks.registry import TASKS, abstract, build, forget, steps_per_epoch
from earlyprune_jax.tasks.task import HostMeasurement, Task, split_variables

__all__ = [
    "TASKS",
    "Batches",
    "Batching",
    "HostMeasurement",
    "Metric",
    "Network",
    "Task",
    "abstract",
    "bucketed",
    "build",
    "forget",
    "gather",
    "padded_batches",
    "plain",
    "split_variables",
    "steps_per_epoch",
]
