"""Words for curves, settings, signals and numbers: the figure and the summary speak alike."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from earlyprune_jax.analysis.curves import CURVE_AXES, Curve, Stats
from earlyprune_jax.analysis.peaks import Peak
from earlyprune_jax.analysis.runs import SETTING, Setting


def percent(stats: Stats, *, decimals: int = 1, plus_minus: str = "±") -> str:
    """A fraction's statistics in percent; the spread only where there is one.

    Example:
        >>> percent(Stats(0.946, 0.012, 3)), percent(Stats(0.946, None, 1))
        ('94.6 ± 1.2 %', '94.6 %')
    """
    spread = "" if stats.std is None else f" {plus_minus} {100 * stats.std:.{decimals}f}"
    return f"{100 * stats.mean:.{decimals}f}{spread} %"


def curve_label(curve: Curve, axes: Sequence[str] = CURVE_AXES) -> str:
    """The curve's place on the given axes.

    Example:
        >>> curve_label(Curve("magnitude", "global", 0.97, "paper_a", {}))
        'magnitude, global, 97 % removed, rule paper_a'
    """
    words = {
        "criterion": curve.criterion,
        "scope": curve.scope,
        "sparsity": f"{100 * curve.sparsity:.6g} % removed",
        "rule": f"rule {curve.rule}",
    }
    return ", ".join(words[axis] for axis in axes)


def setting_label(setting: Setting, axes: Sequence[str] = SETTING) -> str:
    """What the trunks of a setting are, on the given axes.

    Example:
        >>> setting_label(Setting("preresnet20", 0.1, "step"))
        'preresnet20, 10 % of the training images, schedule step'
        >>> setting_label(Setting("preresnet20", 1.0, "step"), ["model", "train_fraction"])
        'preresnet20, all training images'
    """
    part = f"{100 * setting.train_fraction:.6g} % of the" if setting.train_fraction != 1 else "all"
    words = {
        "model": setting.model,
        "train_fraction": f"{part} training images",
        "schedule": f"schedule {setting.schedule}",
    }
    return ", ".join(words[axis] for axis in axes)


def varying_settings(settings: Iterable[Setting]) -> list[str]:
    """The axes on which settings differ.

    Example:
        >>> varying_settings([Setting("resnet20", 1.0, "step"), Setting("resnet56", 1.0, "step")])
        ['model']
    """
    settings = set(settings)
    return [axis for axis in SETTING if len({getattr(setting, axis) for setting in settings}) > 1]


def signal_label(name: str, config: Mapping[str, Any], *, short: bool = False) -> str:
    """A signal's name for readers; `short` leaves out which parameters it sums over.

    Example:
        >>> signal_label("fisher_trace", {"signals": {"fisher_layers": "conv_kernels"}})
        'tr(F), conv kernels'
        >>> signal_label("kl_uniform_bits", {})
        'KL_uniform'
    """
    layers = config.get("signals", {}).get("fisher_layers", "prunable kernels").replace("_", " ")
    known = {
        "fisher_trace": ("tr(F)", f", {layers}"),
        "fisher_trace_all": ("tr(F)", ", all parameters"),
        "kl_uniform_bits": ("KL_uniform", ""),
        "kl_uniform": ("KL_uniform", ""),
        "random_distance": ("random distance", ""),
    }
    base, detail = known.get(name, (name.removesuffix(_unit_suffix(name)), ""))
    return base if short else base + detail


def quantity(value: float, signal: str) -> str:
    """A signal's value with three digits at least, and its unit.

    Example:
        >>> quantity(1291.2, "fisher_trace"), quantity(14.04, "kl_uniform_bits")
        ('1291', '14.0 bits')
    """
    magnitude = abs(value)
    digits = f"{value:.0f}" if 100 <= magnitude < 1e6 else f"{value:#.3g}"
    unit = _unit_suffix(signal).replace("_", " ")
    return digits.rstrip(".") + unit


def peak_label(peak: Peak) -> str:
    """How large the signal gets, and where; says so where that is no interior peak.

    Example:
        >>> peak_label(Peak("fisher_trace", None, 10, 186.2, None, (9, 11), False))
        'peak 186 at epoch 10'
        >>> peak_label(Peak("kl_uniform_bits", None, 40, 3.0, "last", (36, 40), False))
        'maximum 3.00 bits at last epoch 40 (no peak)'
        >>> peak_label(Peak("kl_uniform_bits", None, 32, 3.0, None, (21, 40), True))
        'maximum 3.00 bits at epoch 32 (flat 21-40)'
    """
    value = quantity(peak.value, peak.signal)
    if peak.edge:
        return f"maximum {value} at {peak.edge} epoch {peak.epoch} (no peak)"
    if peak.flat:
        return f"maximum {value} at epoch {peak.epoch} (flat {peak.plateau[0]}-{peak.plateau[1]})"
    return f"peak {value} at epoch {peak.epoch}"


def peak_words(peak: Peak) -> str:
    """The same in a few words, to stand beside the mark.

    Example:
        >>> peak_words(Peak("fisher_trace", None, 10, 186.2, None, (9, 11), False))
        'peaks at epoch 10'
    """
    if peak.edge:
        return f"is largest at the {peak.edge} epoch, {peak.epoch}"
    if peak.flat:
        return f"is flat over epochs {peak.plateau[0]}-{peak.plateau[1]}"
    return f"peaks at epoch {peak.epoch}"


def _unit_suffix(name: str) -> str:
    return next((suffix for suffix in ("_bits", "_nats") if name.endswith(suffix)), "")
