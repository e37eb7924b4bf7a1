"""Processes that are killed or told to leave, at any moment, workers too."""

import os
import signal

from tests.reliability import commands
from tests.reliability.harness import (
    DONE,
    INTERRUPTED,
    TERMINATED,
    Room,
    Verdict,
)

CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
NUM_IMPORTS = 1500
"""About how many modules `earlyprune run` imports."""
IMPORTING = """
import os, runpy, sys
sys.argv[0] = "earlyprune"
count = 0
def hook(event, arguments):
    global count
    if event == "import" and (count or arguments[0] == "earlyprune_jax"):
        count += 1
        if count == {number}:
            os.write(1, b"SENT")
            os.kill(os.getpid(), {signal})
sys.addaudithook(hook)
runpy.run_module("earlyprune_jax", run_name="__main__", alter_sys=True)
"""
"""A program that sends itself a signal before its number-th import."""


def kill(room: Room) -> Verdict:
    """kill -9, up to three times in a row; every tenth case has workers."""
    if room.index % 10 == 9:
        return _kill_with_workers(room)
    form = room.rng.choice(("grid", "grid", "online"))
    for _ in range(room.rng.randint(1, 3)):
        if room.rng.random() < 0.7:
            ended = room.run(
                *room.study(form), first=room.moment(form, commands.signalled(signal.SIGKILL))
            )
        else:
            started = room.start(*room.study(form))
            _wait(room, started, room.lab.seconds[form])
            started.send(signal.SIGKILL)
            ended = room.end(started)
        if fault := room.expect(ended, -signal.SIGKILL, DONE):
            return fault
    return room.settled(form)


def _kill_with_workers(room: Room) -> Verdict:
    """Kills the command, whose workers then leave, or a worker, which is then replaced."""
    started = room.start(*room.study("grid", "--workers=2"))
    _wait(room, started, 6)
    workers = [pid for pid in started.session() if pid != started.pid]
    if workers and room.rng.random() < 0.5:
        room.note("a worker")
        os.kill(room.rng.choice(workers), signal.SIGKILL)
        fault = room.expect(room.end(started), DONE)
    else:
        room.note("the command")
        started.send(signal.SIGKILL)
        fault = room.expect(room.end(started), -signal.SIGKILL, DONE)
    return fault or room.settled("grid")


def stop(room: Room) -> Verdict:
    """SIGTERM or SIGINT while importing, at a change of a folder, at any time, with workers."""
    number = room.rng.choice(list(CODES))
    how = room.rng.choice((_import, _change, _change, _time, _time, _workers))
    room.note(f"{number.name} {how.__name__[1:]}")
    return how(room, number, room.rng.choice(("grid", "online")))


def _import(room: Room, number: signal.Signals, form: str) -> Verdict:
    moment = room.rng.randint(2, NUM_IMPORTS)
    room.note(f"import {moment}")
    program = IMPORTING.format(number=moment, signal=int(number))
    ended = room.run(*room.study(form), python=["-c", program])
    codes = (CODES[number],) if "SENT" in ended.said else (DONE,)
    return room.expect(ended, *codes) or room.settled(form)


def _change(room: Room, number: signal.Signals, form: str) -> Verdict:
    ended = room.run(*room.study(form), first=room.moment(form, commands.signalled(number)))
    return room.expect(ended, CODES[number]) or room.settled(form)


def _time(room: Room, number: signal.Signals, form: str) -> Verdict:
    """Once, or twice within a moment, as impatient people and batch systems do."""
    started = room.start(*room.study(form))
    _wait(room, started, room.lab.seconds[form])
    return _left(room, started, number, form)


def _workers(room: Room, number: signal.Signals, form: str) -> Verdict:
    started = room.start(*room.study(form, "--workers=2"))
    _wait(room, started, 6)
    return _left(room, started, number, form, to_all=room.rng.random() < 0.5)


def _left(
    room: Room, started: commands.Started, number: signal.Signals, form: str, **to: bool
) -> Verdict:
    # Whoever has written the first table may be at its end before the signal arrives.
    is_late = started.poll() or (room.workdir / "results.csv").is_file()
    started.send(number, **to)
    if room.rng.random() < 0.3:
        room.note("twice")
        _wait(room, started, 0.2)
        started.send(number, **to)
    codes = (CODES[number], DONE) if is_late else (CODES[number],)
    return room.expect(room.end(started), *codes) or room.settled(form)


def start_twice(room: Room) -> Verdict:
    """Two processes on one workdir at once, of which one may be killed."""
    form, base = room.rng.choice(("grid", "online")), room.rng.choice(("", "", "-early", "-late"))
    if base:
        room.copy(form + base)
    first = room.start(*room.study(form))
    _wait(room, first, room.rng.choice((0.0, 0.3, room.lab.seconds[form])))
    second = room.start(*room.study(form))
    if is_killed := room.rng.random() < 0.2:
        _wait(room, first, room.lab.seconds[form])
        first.send(signal.SIGKILL)
    room.note(f"on {base or 'nothing'}{', the first is killed' * is_killed}")
    codes = (DONE, -signal.SIGKILL) if is_killed else (DONE,)
    faults = room.expect(room.end(first), *codes), room.expect(room.end(second), DONE)
    if fault := next(filter(None, faults), None):
        return fault
    return room.settled(form)


def _wait(room: Room, started: commands.Started, seconds: float) -> None:
    """Waits for a random part of some seconds, or until a command ends."""
    part = room.rng.uniform(0, seconds)
    room.note(f"after {part:.2f} s")
    commands.wait_until(started.poll, part)
