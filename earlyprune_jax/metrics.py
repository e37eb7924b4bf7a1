"""What a task reports: named numbers, unit, which direction is better; how numbers are written."""

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

    def written(self, value: float) -> str:
        """Writes a value with its unit.

        Example:
            >>> Metric("accuracy", "%").written(0.92463), Metric("loss", "nats").written(0.0123456)
            ('92.46 %', '0.01235 nats')
        """
        decimals = ".2f" if self.unit == PERCENT else ".4g"
        return f"{self.scale * value:{decimals}} {self.unit}".rstrip()


def duration(seconds: float) -> str:
    """Writes how long something takes, to two digits or so.

    Example:
        >>> duration(0.44), duration(75), duration(1500), duration(12000), duration(200000)
        ('0.4 s', '75 s', '25 min', '3 h 20 min', '2 d 8 h')
    """
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours = round(minutes / 60)
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"
