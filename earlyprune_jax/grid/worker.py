"""One worker process of a pool: bound to its cores, told what to do on stdin, telling what it does
on stdout.

python -m earlyprune_jax.grid.worker < orders.json
"""

import json
import os
import signal
import sys
from typing import Any

from earlyprune_jax import memory

INTERRUPTED = 130


def main() -> int:
    """Works on a study until nothing is left. Returns 0, 2 for bad input, 130 if it was told to
    stop."""
    told = json.loads(sys.stdin.readline())
    # Before JAX is imported: its threads are as many as there are cores then.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, told["cores"])
    memory.keep_freed()
    signal.signal(signal.SIGTERM, _interrupt)
    # Slurm announces a job's limit with this to every process of it, and the default is to die.
    signal.signal(signal.SIGUSR2, _interrupt)
    from earlyprune_jax.validate import InvalidInput

    try:
        _work(told)
    except InvalidInput as error:
        _tell("problems", list(error.problems))
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _work(told: dict[str, Any]) -> None:
    from pathlib import Path

    from earlyprune_jax import spec
    from earlyprune_jax.grid import options, run
    from earlyprune_jax.grid.study import Study
    from earlyprune_jax.grid.trainer import Talk, Trainer

    resolved = spec.from_message(told["spec"])
    spec.use_code(resolved)
    study = Study(resolved, Path(told["workdir"]))
    talk = Talk(
        report=lambda name, entry: _tell("epoch", [name, entry]),
        say=lambda sentence: _tell("say", sentence),
        stop=options.stop_at(told["deadline"]),
        ended=lambda: _tell("ended", None),
    )
    trainer = Trainer(study, talk)
    _tell("ready", None)
    orders = run.orders(trainer, only=told["only"], asked_width=told["fork_width"])
    run.work(trainer, orders)


def _tell(kind: str, what: Any) -> None:
    try:
        print(json.dumps([kind, what]), flush=True)
    except BrokenPipeError:
        # Nobody listens any more: whoever started this worker is gone.
        raise KeyboardInterrupt from None


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Threads of a checkpoint that was being written would hold a normal exit for minutes.
    os._exit(code)
