"""The config keys as --help lists them: by section, with type, a config's value, and meaning."""

import dataclasses
import textwrap
from collections.abc import Mapping
from typing import Any

from earlyprune_jax.spec_sections import MEANINGS, SECTIONS, type_name

WIDTH = 80
"""Columns of --help."""


def describe_keys(values: Mapping[str, Mapping[str, Any]], config: str) -> str:
    """Lists every key with its type, its value in a config, and its meaning, for --help.

    Args:
        values: section -> key -> value.
        config: that has these values.
    """
    intro = (
        "config keys, by section: type, the value in {} (a config file gives a value to every key, "
        "none has another default), meaning"
    )
    lines = textwrap.wrap(intro.format(config), WIDTH)
    for section, declared in SECTIONS.items():
        title = (declared.__doc__ or "").partition("\n")[0]
        lines += ["", *_hanging(f"{section}: {title}", 0)]
        for field in dataclasses.fields(declared):
            value = _as_given(values[section][field.name])
            given = f"{section}.{field.name}  {type_name(field.type)}; {value}"
            lines += _hanging(given, 2)
            lines += _hanging(MEANINGS.get(f"{section}.{field.name}", ""), 6)
    sweep = (
        "several values of a key that decides data, trunks or forks: all combinations, e.g. "
        "--config.sweep.optim.weight_decay=5e-3,5e-4; sweep.rows=[{...}, ...]: values that belong "
        "together"
    )
    return "\n".join([*lines, "", "  sweep.SECTION.KEY", *_hanging(sweep, 6)])


def _hanging(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent)


def _as_given(value: Any) -> str:
    """Writes a value as on the command line, with room to break the line."""
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "()"
    return str(value).lower() if isinstance(value, bool) else str(value) or "''"
