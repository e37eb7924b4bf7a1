"""Translates lines of text by a trained run of task.name=translation.

    earlyprune translate runs/numerals/trunks/NAME < german.txt > english.txt

Lines in UTF-8 on standard input, in the language that the run translates from; one line each on
standard output. RUN_DIR is a trunk or a pruned run, in its workdir: its vocabularies lie there. No
training data is read. Empty lines stay empty. Lines that are too long are cut, characters that the
vocabulary has not seen are read as unknown: both are counted on standard error.
"""

import argparse
import inspect
import io
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from earlyprune_jax import (
    assets,
    leaving,
    models,
    records,
    references,
    user_code,
    validate,
    workspace,
)
from earlyprune_jax.analysis.formatting import listed, plural
from earlyprune_jax.data import corpora
from earlyprune_jax.data.vocabulary import Vocabulary
from earlyprune_jax.run_records import Recorded, RunRecords
from earlyprune_jax.storage import StorageError
from earlyprune_jax.tasks import split_variables
from earlyprune_jax.training import execution
from earlyprune_jax.training.checkpoint import CheckpointError, CheckpointStore
from earlyprune_jax.translation import task
from earlyprune_jax.translation.lines import Translator
from earlyprune_jax.validate import InvalidInput, unexpected

LINES_TOGETHER = 1000
"""Lines that are read before any is translated; at a terminal it is one."""
MOST_NAMED = 5
"""Line numbers that a remark names."""
SEARCH = "beam", "length_penalty"
"""Flags that the run has options of the same names for."""


def parser() -> argparse.ArgumentParser:
    """Returns the reader of the arguments."""
    made = argparse.ArgumentParser(
        prog="earlyprune translate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("run", metavar="RUN_DIR", help="WORKDIR/trunks/NAME, WORKDIR/forks/NAME ...")
    made.add_argument("--epoch", metavar="N", type=int, help="of a checkpoint; default: the last")
    made.add_argument("--beam", metavar="N", type=int, help="hypotheses a line; default: the run's")
    made.add_argument(
        "--length_penalty", metavar="A", type=float, help="its exponent; default: the run's"
    )
    return made


def main(arguments: list[str]) -> int:
    """Translates standard input; returns the exit code: 0, or 2 where something cannot be used."""
    flags = parser().parse_args(arguments)
    return validate.answer(lambda: _translate(flags))


def _translate(flags: argparse.Namespace) -> None:
    search = {name: getattr(flags, name) for name in SEARCH}
    translator = load(Path(flags.run), flags.epoch, search)
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    if is_terminal:
        translator.prepare()
        print("A line, then Enter; Ctrl-D ends.", file=sys.stderr, flush=True)
    lines = corpora.decoded(lambda: getattr(sys.stdin, "buffer", io.BytesIO()), "standard input")
    try:
        while part := list(itertools.islice(lines, 1 if is_terminal else LINES_TOGETHER)):
            print("\n".join(translator(part)), flush=True)
            if failure := leaving.output_failure():
                raise failure
    except BrokenPipeError:
        pass  # Whoever reads has read enough.
    except OSError as error:
        raise StorageError(error.errno, f"Could not write the output: {error.strerror}.") from error
    finally:
        for remark in _remarks(translator):
            print(f"earlyprune_jax: {remark}", file=sys.stderr)


def _remarks(translator: Translator) -> Iterator[str]:
    """Says which lines were not taken as they are."""
    kinds = {
        f"longer than {translator.max_tokens} tokens, of which the rest was cut": translator.cut,
        "with characters that the vocabulary has not seen": translator.unknown,
    }
    for kind, numbers in kinds.items():
        if numbers:
            named = listed(list(map(str, numbers)), at_most=MOST_NAMED)
            yield f"{plural(len(numbers), 'line')} {kind}: {named}."


def load(
    directory: Path, epoch: int | None = None, search: Mapping[str, Any] | None = None
) -> Translator:
    """Makes what translates from a run's checkpoint; its training data are not needed.

    Args:
        directory: of the run, in its workdir.
        epoch: of the checkpoint; None = that with which the run has finished.
        search: beam and length_penalty, where they are not None in place of the run's own.

    Returns:
        A function: lines -> their translations.

    Raises:
        InvalidInput: it is no run of this task, has not got so far, or has lost what it needs.

    Example:
        >>> load(Path("runs/numerals/trunks/NAME"))(["eins"])   # doctest: +SKIP
        ['one']
    """
    given = {name: value for name, value in (search or {}).items() if value is not None}
    for name, value in given.items():
        if allowed := task.RANGES[name](value):
            raise unexpected(f"--{name}", value, allowed)
    directory = directory.resolve()
    workdir, recorded = directory.parent.parent, _recorded(directory)
    described = recorded.description or {}
    config = described["config"]
    options = _options(config["task"]["name"])
    epoch = _epoch(directory, recorded, epoch)
    vocabularies = {
        side: Vocabulary(assets.read(workdir, described, f"{side}.model")) for side in task.SIDES
    }
    model = _model(workdir, config["model"])
    module = task.network(model, vocabularies, config["train"]["precision"])
    return Translator(
        task.decoder(module, **options | given),
        _variables(directory, epoch, module),
        vocabularies,
        references.load("data.name", config["data"]["name"], corpora.CORPORA)().max_tokens,
    )


def _recorded(directory: Path) -> Recorded:
    """Reads the records of a run.

    Raises:
        InvalidInput: it is none, or they are damaged.
    """
    if not (directory / "run.json").is_file():
        remedy = "One is WORKDIR/trunks/NAME or WORKDIR/forks/NAME."
        if directory.is_dir() and records.holds_study(directory):
            remedy = f"It is a whole workdir. {remedy}"
        raise unexpected("RUN_DIR", str(directory), "to be a run's, with a run.json", remedy)
    with records.sound(directory):
        recorded = RunRecords(directory).read()
    if (recorded.description or {})["kind"] == "comparison":
        raise unexpected("RUN_DIR", str(directory), "to be a run's; it is of a comparison of runs")
    return recorded


def _options(name: str) -> dict[str, Any]:
    """Returns how a run of a task of that name searches.

    Raises:
        InvalidInput: it is another task.
    """
    if references.parse(name).path != "translation":
        raise unexpected("task.name of the run", name, "to be translation", "Only that translates.")
    made = references.load("task.name", name, {"translation": task.translation})
    names = "beam", "length_penalty", "extra_length"
    return {name: inspect.signature(made).parameters[name].default for name in names}


def _epoch(directory: Path, recorded: Recorded, asked: int | None) -> int:
    """Chooses the checkpoint.

    Raises:
        InvalidInput: the run has none of that epoch, or has not finished and none is asked for.
    """
    saved = _store(directory).epochs()
    described = recorded.description or {}
    remedy = f"Saved: {', '.join(map(str, saved)) or 'none'}."
    if described["kind"] != "trunk":
        remedy += " Of a pruned run the newest alone is kept."
    elif (kept := described["config"]["train"]["keep_checkpoints"]) != "all":
        remedy += f" By train.keep_checkpoints={kept} others are not kept."
    result = recorded.result or {}
    if asked is None and (status := result.get("status", "unfinished")) != "finished":
        where = f"to have finished; it is {status} after {len(recorded.epochs)} epochs"
        raise unexpected("run", str(directory), where, f"Or give --epoch. {remedy}")
    wanted = result.get("epoch") if asked is None else asked
    if wanted not in saved:
        thing = "--epoch" if asked is not None else "last epoch of the run"
        raise unexpected(thing, wanted, "to be that of a checkpoint", remedy)
    return wanted


def _store(directory: Path) -> CheckpointStore:
    return CheckpointStore(directory / "checkpoints")


def _model(workdir: Path, config: Mapping[str, Any]) -> Callable[..., Any]:
    """Returns what makes the run's network; the user's code must be what it was.

    Raises:
        InvalidInput: it has changed, or cannot be found.
    """
    if paths := references.import_paths(config["name"]):
        study = records.read_of_study(workdir, records.STUDY) or {}
        user_code.use_folder(study.get("folder"))
        workspace.require_code(workdir, paths)
    return models.factory(config["name"], width_multiplier=config["width_multiplier"])


def _variables(directory: Path, epoch: int, module: Any) -> Any:
    """Reads the network's variables from a checkpoint.

    Raises:
        InvalidInput: it is damaged, or of another network.
    """
    execution.require_jax()
    shapes = jax.eval_shape(lambda key: task.init(module, key), jax.random.key(0))
    params, model_state = split_variables(shapes)
    like = {"params": params, "model_state": model_state}
    try:
        found = _store(directory).restore(epoch, like, whole=False)
    except CheckpointError as error:
        raise InvalidInput([str(error)]) from error
    return jax.device_put({"params": found["params"], **found["model_state"]})
