"""Files of a workdir are written whole or not at all, through no link; leftovers alone go."""

import errno
import os
import pickle
import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from earlyprune_jax import storage
from earlyprune_jax.grid.locks import RunLocks, is_held
from earlyprune_jax.run_records import RunRecords
from earlyprune_jax.storage import StorageError, UnusableFile

WRITES = {
    "replace_file": lambda path: storage.replace_file(path, b"new"),
    "append": lambda path: storage.append(path, "new"),
    "remove": storage.remove,
}


def test_two_hosts_of_one_directory_write_to_temporaries_of_their_own(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        os, "fsync", lambda _: seen.extend(path.name for path in tmp_path.iterdir())
    )
    monkeypatch.setattr(os, "getpid", lambda: 7)
    for host in ("first", "second"):
        monkeypatch.setattr(platform, "node", lambda host=host: host)
        storage.replace_file(tmp_path / "table.csv", host.encode())
        (tmp_path / "table.csv").unlink()
    assert len(set(seen)) == len(seen) == 2


def test_what_is_appended_stands_behind_what_was_there(tmp_path):
    for text in ("a\n", "bü\n"):
        storage.append(tmp_path / "lines", text)
    assert storage.read_text(tmp_path / "lines") == "a\nbü\n"
    assert storage.read_text(tmp_path / "none") is None


@pytest.mark.parametrize("target", ["outside", "nothing"])
@pytest.mark.parametrize("write", WRITES)
def test_a_link_in_place_of_a_file_is_refused_by_name_and_not_followed(tmp_path, write, target):
    (tmp_path / "outside").write_text("foreign")
    (link := tmp_path / "metrics.jsonl").symlink_to(tmp_path / target)
    with pytest.raises(UnusableFile, match="metrics.jsonl.*It is a link"):
        WRITES[write](link)
    assert link.is_symlink() and (tmp_path / "outside").read_text() == "foreign"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "outside"]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
@pytest.mark.parametrize("use", [*WRITES.values(), storage.read_text], ids=[*WRITES, "read_text"])
def test_a_folder_or_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(tmp_path, use, make):
    make(tmp_path / "run.json")
    with pytest.raises(UnusableFile, match="run.json.*neither followed"):
        use(tmp_path / "run.json")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def temporary(path: Path, host: str = "", process: int = 0) -> Path:
    """The file through which a process of a host replaces another."""
    host, process = host or platform.node(), process or os.getpid()
    return path.with_name(f".{path.name}.{host}.{process}.{storage.SUFFIX}")


def test_a_temporary_of_the_same_name_is_written_anew_and_a_link_of_it_refused(tmp_path):
    table = tmp_path / "table.csv"
    temporary(table).write_text("of one that was killed, and longer")
    storage.replace_file(table, b"new")
    assert table.read_bytes() == b"new"
    (tmp_path / "outside").write_text("foreign")
    temporary(table).symlink_to(tmp_path / "outside")
    with pytest.raises(UnusableFile, match="earlyprune-tmp.*It is a link"):
        storage.replace_file(table, b"newer")
    assert (tmp_path / "outside").read_text() == "foreign" and table.read_bytes() == b"new"


def test_a_lock_that_is_a_link_is_refused_and_one_with_content_keeps_it(tmp_path):
    (tmp_path / "outside").write_text("foreign")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "outside")
    with pytest.raises(UnusableFile, match=r"\.lock.*It is a link"):
        RunLocks().take(tmp_path / "run")
    assert not is_held(tmp_path / "run")
    (tmp_path / ".lock").hardlink_to(tmp_path / "outside")
    with RunLocks() as locks:
        assert locks.take(tmp_path)
    assert (tmp_path / "outside").read_text() == "foreign"


def test_only_leftovers_of_dead_processes_go_and_all_where_the_lock_is_ours(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    result = tmp_path / "result.json"
    left = temporary(result, process=dead.pid)
    own, far = temporary(result), temporary(result, host="elsewhere", process=dead.pid)
    foreign = tmp_path / ".result.json.host.7.tmp"
    for path in (left, own, far, foreign):
        path.write_text("")
    (linked := temporary(result, process=1)).symlink_to(foreign)
    (folder := temporary(result, process=2)).mkdir()
    storage.clean(tmp_path, is_held=False)
    assert not left.exists() and own.exists() and far.exists()
    storage.clean(tmp_path, is_held=True)
    assert not own.exists() and not far.exists()
    assert foreign.exists() and linked.is_symlink() and folder.is_dir()
    storage.clean(tmp_path / "none", is_held=True)


def caused_by_several(error: Exception) -> Exception:
    outer = RuntimeError("a save failed")
    outer.__cause__ = ExceptionGroup("threads", [ValueError("other"), error])
    return outer


@pytest.mark.parametrize(
    "chained",
    [
        lambda error: error,
        caused_by_several,
        lambda _: ValueError("Failed to write 3 bytes [os_error_code='28']"),
    ],
    ids=["itself", "inside of a group, as a cause", "in TensorStore's words"],
)
def test_a_full_disk_is_told_from_every_form_of_error_and_survives_pickling(tmp_path, chained):
    with pytest.raises(StorageError) as caught, storage.using(tmp_path / "5"):
        raise chained(OSError(errno.ENOSPC, "No space left on device"))
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.errno == errno.ENOSPC and str(error) == str(caught.value)
    assert str(error).startswith(f"Could not write {tmp_path}/5: No space left on device (")
    assert "MB free). Make room there; the same command then goes on" in str(error)


def test_what_is_no_fault_of_the_storage_stays_what_it_was(tmp_path):
    missing = FileNotFoundError(errno.ENOENT, "looked for on the way")
    for error in (
        ValueError("a bug"),
        caused_by_several(missing),
        OSError("of a library, not the system"),
    ):
        with pytest.raises(type(error)), storage.using(tmp_path):
            raise error


def test_whatever_else_the_system_refuses_is_the_storage_s_and_names_the_file(tmp_path):
    codes = set(errno.errorcode).difference(storage.NOT_OURS, storage.FORBIDDEN)
    for code in codes:
        with pytest.raises(StorageError) as caught, storage.using(tmp_path / "run.json"):
            raise OSError(code, os.strerror(code))
        assert caught.value.errno == code
        assert f"run.json: {os.strerror(code)}" in str(caught.value)


def test_a_file_of_which_the_storage_does_not_tell_is_not_taken_for_absent(tmp_path, monkeypatch):
    def stale(path):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)

    assert not storage.is_there(tmp_path / "result.json")
    monkeypatch.setattr(os, "lstat", stale)
    with pytest.raises(StorageError, match="result.json: Stale"):
        RunRecords(tmp_path).has_ended()


LIMITED = """
    import resource, sys
    from pathlib import Path
    from earlyprune_jax import storage
    path = Path(sys.argv[1])
    storage.append(path, "first\\n")
    storage.replace_file(path.with_name("table"), b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    for write in (lambda: storage.append(path, "x" * 200),
                  lambda: storage.replace_file(path.with_name("table"), b"x" * 200)):
        try:
            write()
        except storage.StorageError as error:
            print(error)
"""


def test_at_a_limit_of_file_size_nothing_is_written_and_nothing_lost(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path / "lines")]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stdout.count("File too large. Raise the limit on the size of files") == 2
    assert not told.stderr
    assert (tmp_path / "lines").read_text() == "first\n"
    assert (tmp_path / "table").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
READING = """
    import sys
    from pathlib import Path
    from earlyprune_jax import storage
    try:
        storage.read_text(Path(sys.argv[1]))
    except storage.UnusableFile as error:
        print(error)
"""


def test_a_file_that_may_not_be_read_is_named(tmp_path):
    (path := tmp_path / "run.json").write_text("{}")
    path.chmod(0)
    command = [sys.executable, "-c", textwrap.dedent(READING), str(path)]
    if os.access(path, os.R_OK):  # as root
        command = [*UNPRIVILEGED, *command]
        if subprocess.run([*UNPRIVILEGED, "true"], check=False).returncode:
            pytest.skip("root's rights cannot be dropped here")
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "run.json' to be a file that you may use (permission denied). Give" in told.stdout
