"""What a task reports: named numbers, their unit, and which direction is better."""

import dataclasses

from earlyprune_jax.validate import unexpected

PERCENT = "%"


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number that is reported for every split and epoch.

    Attributes:
        name: as in `train_NAME`, `validation_NAME`, `test_NAME`, the columns of records and tables.
        unit: `%` for a fraction that is shown in percent; otherwise what stands behind the number.
        larger_is_better: the direction.

    Example:
        >>> loss = Metric("loss", "nats", larger_is_better=False)
        >>> loss.column("test"), loss.sign, Metric("accuracy", "%").scale
        ('test_loss', -1.0, 100.0)
    """

    name: str
    unit: str = ""
    larger_is_better: bool = True

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise unexpected("name of a metric", self.name, "to be an identifier", "E.g. loss.")

    @property
    def scale(self) -> float:
        """Returns what a value is multiplied by where it is shown."""
        return 100.0 if self.unit == PERCENT else 1.0

    @property
    def sign(self) -> float:
        """Returns 1 or -1: of `sign * value` the larger is the better."""
        return 1.0 if self.larger_is_better else -1.0

    def column(self, split: str) -> str:
        """Names the metric of a split as records and tables do."""
        return f"{split}_{self.name}"
