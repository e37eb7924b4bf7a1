"""How the program's process ends: signals at any moment, streams that fail, exit codes."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import LAST_RESORT_SECONDS

from earlyprune_jax import leaving

ROOT = Path(__file__).parent.parent
INTERRUPTED, TERMINATED = b"\nInterrupted.\n", b"\nTerminated.\n"

# Each says that it is ready, and goes on until it is stopped.
SWALLOWED = """
import signal, time, weakref

def swallow(_):  # Python drops what is raised in here
    print("ready", flush=True)
    while True:
        time.sleep(1)

class Target:
    pass

target = Target()
reference = weakref.ref(target, swallow)
del target
"""
IN_C = """
import ctypes
print("ready", flush=True)
ctypes.CDLL(None).sleep(100_000)
"""
FORKED = """
import os, time
if os.fork():
    os.wait()
    print("went on", flush=True)
else:
    print("ready", flush=True)
while True:
    time.sleep(1)
"""
BEGIN = "from earlyprune_jax import leaving\nleaving.begin()\n"
# Whoever runs the tests under nohup has SIGHUP ignored, and their processes inherit that.
HEARD = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n"


def start(*command: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """A Python process, once it has said that it is ready."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, *command], stdout=pipe, stderr=pipe, env=env)
    assert process.stdout and process.stdout.readline()
    return process


def end(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    _, said = process.communicate(timeout=LAST_RESORT_SECONDS)
    return process.returncode, said


@pytest.mark.parametrize("program", [SWALLOWED, IN_C])
@pytest.mark.parametrize(
    ("number", "ended"),
    [
        (signal.SIGINT, (leaving.INTERRUPTED, INTERRUPTED)),
        (signal.SIGTERM, (leaving.TERMINATED, TERMINATED)),
        (signal.SIGHUP, (leaving.TERMINATED, TERMINATED)),
    ],
)
def test_a_signal_ends_the_process_whatever_its_main_thread_does(program, number, ended):
    process = start("-c", HEARD + BEGIN + program)
    process.send_signal(number)
    assert end(process) == ended


def test_a_hang_up_that_is_ignored_stays_ignored():
    ignore = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    process = start("-c", ignore + BEGIN + IN_C)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    assert end(process) == (leaving.INTERRUPTED, INTERRUPTED)


def test_a_signal_to_a_forked_child_leaves_its_parent_alone():
    process = start("-W", "ignore", "-c", BEGIN + FORKED)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
    assert process.stdout and process.stdout.readline() == b"went on\n"
    process.send_signal(signal.SIGTERM)
    assert end(process) == (leaving.TERMINATED, TERMINATED)


def test_a_signal_to_a_process_that_has_done_everything_leaves_its_exit_code():
    code = """
import os, sys

class Late:
    def __del__(self):  # when Python has taken its own handlers away
        print("ready", flush=True)
        for number in (2, 15, 1):
            os.kill(os.getpid(), number)

late = Late()
sys.exit(3)
"""
    assert end(start("-c", BEGIN + code)) == (3, b"")


@pytest.mark.parametrize(
    ("command", "imported"),
    [
        ("earlyprune_jax.main --config=digits", "jax"),
        ("earlyprune_jax run --config=digits", "jax"),
        ("earlyprune_jax.published.replay", "numpy"),
        ("earlyprune_jax.data.prepare", "numpy"),
    ],
)
def test_a_signal_while_importing_is_one_sentence(command, imported, tmp_path):
    """What is imported takes for ever here."""
    (tmp_path / f"{imported}.py").write_text(IN_C)
    paths = os.pathsep.join((str(tmp_path), str(ROOT)))
    process = start("-m", *command.split(), env=os.environ | {"PYTHONPATH": paths})
    process.send_signal(signal.SIGINT)
    code, said = end(process)
    assert code == leaving.INTERRUPTED and said.endswith(INTERRUPTED) and b"Trace" not in said


def test_the_script_of_the_package_is_the_program_too(tmp_path):
    script = tmp_path / "earlyprune"
    script.write_text(f"import earlyprune_jax.cli\n{IN_C}")
    process = start(str(script), env=os.environ | {"PYTHONPATH": str(ROOT)})
    process.send_signal(signal.SIGTERM)
    assert end(process) == (leaving.TERMINATED, TERMINATED)


def test_who_imports_the_package_keeps_its_own_signals():
    code = "import signal, earlyprune_jax.main\nprint(signal.getsignal(signal.SIGINT))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "default_int_handler" in done.stdout


STREAMS = """
import os, sys
from earlyprune_jax import leaving
leaving.keep_streams()
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
for _ in range(3):
    print("out", "x" * 100_000)
    print("error", file=sys.stderr)
os.write(file, b"whole" if file > 2 else b"")
"""


@pytest.mark.parametrize("streams", [">&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>&1", "2>&1 | true"])
def test_streams_that_fail_are_no_errors_and_get_into_no_file(streams, tmp_path):
    line = f"set -o pipefail; {sys.executable} -c '{STREAMS}' {tmp_path / 'file'} {streams}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_what_is_said_after_streams_were_closed_by_the_user_s_code_is_seen():
    code = "import sys\nsys.stdout.close()\nsys.stderr.close()\nprint('out')\n"
    command = [sys.executable, "-c", f"{BEGIN}{code}print('error', file=sys.stderr)"]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, check=True)
    assert (done.stdout, done.stderr) == (b"out\n", b"error\n")


def test_a_current_folder_that_is_gone_is_said_in_one_sentence(tmp_path):
    (here := tmp_path / "here").mkdir()
    line = f"cd {here} && rmdir {here} && {sys.executable} -m earlyprune_jax status runs"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", line], capture_output=True, env=environment)
    assert done.returncode == leaving.BAD_INPUT and done.stderr.count(b"\n") == 1
    assert b"The current folder cannot be used (No such file or directory)" in done.stderr


def test_without_docstrings_arguments_are_read_as_with_them():
    code = (
        "from earlyprune_jax import main\nprint(main.parser().parse_args(['--workers=3']).workers)"
    )
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, cwd=ROOT)
    assert done.stdout == b"3\n", done.stderr


def test_what_a_terminal_cannot_show_is_written_as_escapes():
    code = "from earlyprune_jax import leaving\nleaving.keep_streams()\nprint('92.9 ± 2')"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, env=environment)
    assert (done.returncode, done.stdout) == (0, b"92.9 \\xb1 2\n")


def test_the_documented_exit_codes_are_those_of_the_program():
    rows = re.findall(r"^    (\d+) .*\b([A-Z_]+)$", leaving.__doc__ or "", re.MULTILINE)
    assert len(rows) == 7
    assert all(getattr(leaving, name) == int(code) for code, name in rows)
