"""`python benchmarks/peak_rule.py [--csv FILE]`: how well the rule `peak` finds peaks on made-up
curves.

A curve has T epochs and a shape. With a peak: a rise and a fall of random place, steepness and
depth, alone, after a high start that fades, with noise that is correlated from epoch to epoch
(0.5), or measured every second epoch only. Without one: it rises, falls, levels off, or falls from
a high start and rises then. The noise is 2, 5 or 10 % of the value.

A peak counts as marked where the marked epoch lies within 10 % of T of the noise-free maximum. The
delay is from that maximum to the firing, in parts of T, over the marked ones. A firing on a curve
without a peak is a false alarm.

The defaults of `peak` were chosen on curves of these shapes drawn before (a prototype's, with
uncorrelated noise, measured every epoch), and on the signals of results/cifar10_signals,
cifar10_small and two_regime_small. Shown are curves of seed 1, which nothing was chosen on.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from earlyprune_jax.triggers import History, Peak

LENGTHS = (20, 40, 60, 100, 200)
NUM_CURVES = 300
NOISE = (0.02, 0.05, 0.1)
BEFORE = {"smoothing": 1, "patience": 2, "min_drop": 0.05, "min_rise": 0.0, "min_errors": 0.0}
"""The defaults up to November 2026."""
RULES = {
    "defaults": Peak("x"),
    "earlier defaults": Peak("x", **BEFORE),
    **{
        f"{name}={value}": Peak("x", **{name: value})
        for name, values in {
            "smoothing": (3, 5, 0.05, 0.075, 0.15, 0.2),
            "patience": (1, 4, 8),
            "min_drop": (0.0, 0.02, 0.1),
            "min_rise": (0.0, 0.02, 0.1, 0.2),
            "min_errors": (0.0, 2.0, 3.0, 5.0, 6.0),
        }.items()
        for value in values
    },
}
Rng = np.random.Generator


def rise_and_fall(t: np.ndarray, rng: Rng) -> np.ndarray:
    """Makes a curve [T] with its maximum, 1, between 10 and 80 % of the epochs."""
    top, low, end = rng.uniform(0.1, 0.8), rng.uniform(0.1, 0.7), rng.uniform(0.05, 0.85)
    rise = np.sin(np.pi / 2 * np.clip(t / top, 0, 1)) ** rng.uniform(1, 3)
    fall = np.cos(np.pi / 2 * np.clip((t - top) / (1 - top), 0, 1)) ** rng.uniform(1, 3)
    return np.where(t < top, low + (1 - low) * rise, end + (1 - end) * fall)


def high_start(t: np.ndarray, rng: Rng) -> np.ndarray:
    """Makes what fades within some 5 % of the epochs."""
    return rng.uniform(0.3, 1) * np.exp(-np.arange(len(t)) / max(1, 0.02 * len(t)))


def rise(t: np.ndarray, rng: Rng) -> np.ndarray:
    """Makes a curve that rises to the last epoch."""
    low = rng.uniform(0.1, 0.7)
    return low + (1 - low) * t ** rng.uniform(0.3, 2)


def fall(t: np.ndarray, rng: Rng) -> np.ndarray:
    """Makes a curve that falls to the last epoch."""
    low = rng.uniform(0.05, 0.85)
    return low + (1 - low) * np.exp(-t * rng.uniform(1, 10))


def level_off(t: np.ndarray, rng: Rng) -> np.ndarray:
    """Makes a curve that rises to a level and stays there."""
    low = rng.uniform(0.1, 0.7)
    return low + (1 - low) * (1 - np.exp(-t * rng.uniform(3, 15)))


def after_a_high_start(shape: Callable[[np.ndarray, Rng], np.ndarray]):
    """Makes the shape that comes after a high start; a later maximum is above it."""

    def made(t: np.ndarray, rng: Rng) -> np.ndarray:
        curve = shape(t, rng)
        return curve + (1 - curve[0]) * high_start(t, rng)

    return made


PEAKED = {
    "peak": (rise_and_fall, 0.0, 1),
    "peak after a high start": (after_a_high_start(rise_and_fall), 0.0, 1),
    "peak, correlated noise": (rise_and_fall, 0.5, 1),
    "peak, every second epoch": (rise_and_fall, 0.0, 2),
}
"""Shape, correlation of the noise, epochs from one measurement to the next."""
OTHERS = {
    "rise": (rise, 0.0, 1),
    "fall": (fall, 0.0, 1),
    "level off": (level_off, 0.0, 1),
    "high start, then rise": (after_a_high_start(rise), 0.0, 1),
}


def noisy(curve: np.ndarray, correlation: float, rng: Rng) -> np.ndarray:
    """Adds noise of one of the sizes, in parts of the value."""
    noise = rng.standard_normal(len(curve))
    for now in range(1, len(curve)):
        fresh = np.sqrt(1 - correlation**2) * noise[now]
        noise[now] = correlation * noise[now - 1] + fresh
    return curve * (1 + rng.choice(NOISE) * noise)


def curves(kind: str, num_epochs: int, seed: int) -> Iterator[tuple[History, int]]:
    """Yields curves as triggers see them, and the epoch of the noise-free maximum.

    Args:
        kind: of `PEAKED` or `OTHERS`.
        num_epochs: T.
        seed: of all of them.
    """
    shape, correlation, every = (PEAKED | OTHERS)[kind]
    kinds = [*PEAKED, *OTHERS]
    rng = np.random.default_rng([seed, num_epochs, kinds.index(kind)])
    t = np.arange(1, num_epochs + 1) / num_epochs
    for _ in range(NUM_CURVES):
        true = shape(t, rng)
        # A high start is not the peak that is looked for.
        start = num_epochs // 10 if "high start" in kind else 0
        values = noisy(true, correlation, rng).tolist()
        history = [
            {"epoch": epoch, "num_epochs": num_epochs, "x": x if epoch % every == 0 else None}
            for epoch, x in enumerate(values, start=1)
        ]
        yield history, start + 1 + int(np.argmax(true[start:]))


def score(rule: Peak, kind: str, num_epochs: int, seed: int) -> dict[str, Any]:
    """Counts what the rule makes of the curves of a kind: a row of the table."""
    marked, delays, fired = 0, [], 0
    for history, top in curves(kind, num_epochs, seed):
        firing = rule(history)
        fired += firing is not None
        if firing and abs(firing.marked_epoch - top) <= 0.1 * num_epochs:
            marked += 1
            delays.append((firing.epoch - top) / num_epochs)
    if kind in OTHERS:
        return {"false_alarms": fired / NUM_CURVES}
    delay = float(np.mean(delays)) if delays else None
    never = 1 - fired / NUM_CURVES
    return {"marked": marked / NUM_CURVES, "never_fired": never, "delay": delay}


def table(seed: int) -> pd.DataFrame:
    """Scores every rule on every kind and length."""
    rows = [
        {"rule": name, "num_epochs": length, "curve": kind, "n": NUM_CURVES}
        | score(rule, kind, length, seed)
        for name, rule in RULES.items()
        for length in LENGTHS
        for kind in (*PEAKED, *OTHERS)
    ]
    return pd.DataFrame(rows)


def main() -> None:
    """Prints the mean over kinds of curves for every rule and length, the defaults by kind too."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--csv", metavar="FILE", help="write every row there")
    parser.add_argument("--seed", type=int, default=1, help="of the curves (default: 1)")
    flags = parser.parse_args()
    rows = table(flags.seed)
    numbers = ["marked", "never_fired", "false_alarms", "delay"]
    for name in ("defaults", "earlier defaults"):
        print(f"\npeak, {name}: {RULES[name]}\n")
        own = rows[rows["rule"] == name].pivot(index="curve", columns="num_epochs")[numbers]
        print(own.round(2).dropna(axis=1, how="all").to_string(na_rep="-"))
    print("\nMeans over the kinds of curves, one option changed at a time\n")
    means = rows.pivot_table(numbers, index="rule", columns="num_epochs", sort=False)
    print(means.round(2).to_string())
    if flags.csv:
        rows.round(4).to_csv(flags.csv, index=False)


if __name__ == "__main__":
    main()
