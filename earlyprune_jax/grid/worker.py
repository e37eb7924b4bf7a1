"""One worker process of a pool: bound to its cores, asked on stdin, telling on stdout.

python -m earlyprune_jax.grid.worker < request.json
"""

import json
import os
import signal
import sys
from typing import Any

from earlyprune_jax import memory

INTERRUPTED = 130


def main() -> int:
    """Works on a study until nothing is left. Returns 0, 2 for bad input, 130 if interrupted."""
    request = json.loads(sys.stdin.readline())
    # Before JAX is imported: its threads are as many as there are cores then.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request["cores"])
    memory.keep_freed()
    signal.signal(signal.SIGTERM, _interrupt)
    # Slurm announces a job's limit with this to every process of it, and the default is to die.
    signal.signal(signal.SIGUSR2, _interrupt)
    from earlyprune_jax.validate import InvalidInput

    try:
        _work(request)
    except InvalidInput as error:
        _tell("problems", list(error.problems))
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _work(request: dict[str, Any]) -> None:
    from pathlib import Path

    from earlyprune_jax import spec as specs
    from earlyprune_jax.grid import options, scheduler
    from earlyprune_jax.grid.study import Study
    from earlyprune_jax.grid.trainer import Callbacks, Trainer

    spec = specs.from_message(request["spec"])
    specs.use_code(spec)
    callbacks = Callbacks(
        report=lambda name, entry: _tell("epoch", [name, entry]),
        say=lambda sentence: _tell("say", sentence),
        stop=options.stop_at(request["deadline"]),
        ended=lambda: _tell("ended", None),
    )
    trainer = Trainer(Study(spec, Path(request["workdir"])), callbacks)
    _tell("ready", None)
    scope = scheduler.Scope(*request["scope"])
    scheduler.work(trainer, asked_width=request["fork_width"], scope=scope)


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
