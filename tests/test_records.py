import os
import platform

from earlyprune_jax import storage


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
