"""earlyprune status DIR: prints how far a study is, once or again and again."""

import argparse
import math
import select
import time
from collections.abc import Sequence

from earlyprune_jax.status import reading, text
from earlyprune_jax.validate import answer, unexpected


def parser() -> argparse.ArgumentParser:
    """Returns the reader of the arguments."""
    made = argparse.ArgumentParser(
        prog="earlyprune status",
        description="Says how far a study is: done, running, failed, left, best so far, time left. "
        "Writes nothing.",
        epilog="Time left: seconds an epoch of the runs that have finished, times the epochs left, "
        "shared by the processes at work. Of what runs, half is taken as done.",
    )
    made.add_argument("workdir", metavar="DIR", help="a study's directory")
    made.add_argument(
        "--watch", action="store_true", help="look again and again, until all has ended or Ctrl-C"
    )
    made.add_argument(
        "--seconds", metavar="S", type=float, default=10.0, help="between two looks; default: 10"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints how far a study is; returns 0, or 2 where the directory cannot be used."""
    flags = parser().parse_args(arguments)
    if flags.watch:
        return answer(lambda: _watch(flags.workdir, flags.seconds))
    return answer(lambda: "\n".join(text.lines(reading.read(flags.workdir))))


def _watch(workdir: str, seconds: float) -> str:
    """Shows a workdir until all has ended, and returns the last state."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise unexpected("--seconds", seconds, "to be a number of seconds above 0")
    from rich.live import Live
    from rich.text import Text

    status, output = reading.read(workdir), select.poll()
    output.register(1, 0)  # What nobody reads any more reports an error without being asked to.
    with Live(auto_refresh=False, transient=True) as live:
        while not status.has_ended() and not output.poll(0):
            shown = "\n".join([time.strftime("%H:%M:%S"), *text.lines(status)])
            live.update(Text(shown), refresh=True)
            time.sleep(seconds)
            status = reading.read(workdir)
    return "\n".join(text.lines(status))
