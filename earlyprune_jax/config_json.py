"""Configs as JSON, such as the config.json of a workdir: read, where a config file is run.

    {"model": {"name": "resnet20", "width_multiplier": 1.0}, "train": {"seeds": [0, 1, 2]}, ...}

Sections of keys, as `RunSpec.to_dict` writes them. Lists stand for tuples, and `sweep` holds
`section.key` with its values, or `rows`.
"""

import json
from pathlib import Path
from typing import Any

from earlyprune_jax import records
from earlyprune_jax.spec_sections import SECTIONS
from earlyprune_jax.validate import InvalidInput, unexpected

TOP_LEVEL = "to hold sections of keys, {SECTION: {KEY: VALUE, ...}, ...}"
REMEDY = "The config.json of a workdir is one; configs of your own may be Python files instead."
IGNORED = "checksum"
"""The key in which a record of a workdir holds its own sum."""


def read(file: Path) -> dict[str, Any]:
    """Reads the sections of a config.

    Args:
        file: of JSON.

    Returns:
        Section -> key -> value; of a sweep, section -> key -> values.

    Raises:
        InvalidInput: it is no JSON, with line and column; a key stands twice; a number is none; or
            it holds no section of a config.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        values = json.loads(text, object_pairs_hook=_once, parse_constant=records.no_constant)
    except json.JSONDecodeError as error:
        flaw = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise _refused(file, f"to be JSON: {flaw}") from error
    except (OSError, ValueError, RecursionError) as error:
        # Bytes that are no text, a number of 5,000 digits, brackets in brackets in brackets.
        raise _refused(file, f"to be JSON: {error}") from error
    if not isinstance(values, dict) or values.keys().isdisjoint(SECTIONS):
        raise _refused(file, TOP_LEVEL)
    values.pop(IGNORED, None)
    if isinstance(values.get("sweep"), dict):
        values["sweep"] = _nested(values["sweep"])
    return values


def _refused(file: Path, allowed: str) -> InvalidInput:
    return unexpected("--config", str(file), allowed, REMEDY)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object of its keys; JSON's own reader takes the last of two that are equal."""
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]!r} stands twice in its section")
    return dict(pairs)


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Puts `section.key` into sections, as a ConfigDict wants them."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        section, dot, key = name.partition(".")
        held = nested.setdefault(section, {}) if dot else nested
        if not isinstance(held, dict) or (key if dot else name) in held:
            raise ValueError(f"sweep holds {name!r} twice")
        held[key if dot else name] = value
    return nested
