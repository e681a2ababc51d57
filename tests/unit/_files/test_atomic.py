import contextlib
import dataclasses
import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from openmm_scoremd._files import atomic

OLD = "old content"
AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text(OLD)
    return path


def contents(folder):
    return sorted(path.name for path in folder.iterdir())


class TestReplacement:
    def test_new_content_replaces_old(self, target):
        with atomic.atomic_path(target) as temporary:
            temporary.write_text("new")
        assert target.read_text() == "new"
        assert contents(target.parent) == ["result.txt"]

    def test_missing_folders_are_made(self, tmp_path):
        path = tmp_path / "a" / "b" / "result.txt"
        atomic.write_text(path, "new")
        assert path.read_text() == "new"

    def test_relative_paths_and_strings(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        atomic.write_text("result.txt", "new")
        assert (tmp_path / "result.txt").read_text() == "new"

    def test_suffix_is_kept_for_writers_that_choose_by_it(self, tmp_path):
        with atomic.atomic_path(tmp_path / "data.npz") as temporary:
            assert temporary.suffix == ".npz"
            np.savez(temporary, x=np.arange(3))
        assert contents(tmp_path) == ["data.npz"]

    def test_old_content_stays_readable_until_the_end(self, target):
        with atomic.atomic_path(target) as temporary:
            temporary.write_text("new")
            assert target.read_text() == OLD

    def test_name_as_long_as_the_file_system_allows(self, tmp_path):
        path = tmp_path / ("x" * 251 + ".txt")
        atomic.write_text(path, "new")
        assert path.read_text() == "new"

    def test_symbolic_link_is_followed(self, target):
        link = target.with_name("link.txt")
        link.symlink_to(target.name)
        atomic.write_text(link, "new")
        assert link.is_symlink()
        assert target.read_text() == "new"

    def test_two_writers_do_not_meet(self, target):
        with atomic.atomic_path(target) as first, atomic.atomic_path(target) as second:
            assert first != second
            first.write_text("first")
            second.write_text("second")
        assert target.read_text() == "first"
        assert contents(target.parent) == ["result.txt"]


class TestFailure:
    @pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt(), SystemExit(1)])
    def test_error_in_the_block_leaves_the_old_file_and_nothing_else(self, target, error):
        with pytest.raises(type(error)), atomic.atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error
        assert target.read_text() == OLD
        assert contents(target.parent) == ["result.txt"]

    def test_error_in_the_block_makes_no_new_file(self, tmp_path):
        with pytest.raises(RuntimeError), atomic.atomic_path(tmp_path / "new.txt") as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")
        assert contents(tmp_path) == []

    def test_writer_that_removed_its_file_is_an_error(self, target):
        with (
            pytest.raises(FileNotFoundError, match=r"cannot write.*result\.txt"),
            atomic.atomic_path(target) as temporary,
        ):
            temporary.unlink()
        assert target.read_text() == OLD

    def test_disk_full_while_flushing(self, target, monkeypatch):
        def full(_descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device.*result\.txt"):
            atomic.write_text(target, "new")
        assert target.read_text() == OLD
        assert contents(target.parent) == ["result.txt"]

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full (Linux)")
    def test_disk_full_while_writing(self, target):
        with pytest.raises(OSError, match="No space left"), atomic.atomic_path(target) as temporary:
            temporary.write_text("half")
            Path("/dev/full").write_text("the other half")
        assert target.read_text() == OLD
        assert contents(target.parent) == ["result.txt"]

    @pytest.mark.parametrize("raised", [None, OSError("oops"), TypeError("oops")])
    def test_disk_full_whatever_the_writer_makes_of_it(self, target, file_limit, raised):
        with (
            file_limit(100),
            pytest.raises(OSError, match=r"cannot write: File too large.*result\.txt"),
            atomic.atomic_path(target) as temporary,
        ):
            try:
                temporary.write_bytes(bytes(200))
            except OSError:
                if raised is not None:
                    raise raised from None
                raise
        assert target.read_text() == OLD
        assert contents(target.parent) == ["result.txt"]

    def test_disk_full_where_the_writer_says_so_in_words(self, target):
        with (
            pytest.raises(OSError, match=r"cannot write: No space left.*result\.txt"),
            atomic.atomic_path(target),
        ):
            raise RuntimeError("I/O error: No space left on device (os error 28)")
        assert contents(target.parent) == ["result.txt"]

    def test_disk_full_and_the_writer_does_not_say_so(self, target, file_limit):
        with (
            file_limit(100),
            pytest.raises(OSError, match=r"cannot write: File too large.*result\.txt"),
            atomic.atomic_path(target) as temporary,
            contextlib.suppress(OSError),
        ):
            temporary.write_bytes(bytes(200))
        assert target.read_text() == OLD
        assert contents(target.parent) == ["result.txt"]

    def test_other_errors_of_writers_stay_what_they_are(self, target, tmp_path):
        with pytest.raises(FileNotFoundError, match="absent"), atomic.atomic_path(target):
            (tmp_path / "absent").read_text()
        with pytest.raises(TypeError, match="oops"), atomic.atomic_path(target):
            raise TypeError("oops")
        with pytest.raises(TypeError, match="oops"), atomic.atomic_path(target) as temporary:
            temporary.unlink()
            raise TypeError("oops")

    def test_folder_as_target(self, tmp_path):
        with pytest.raises(IsADirectoryError, match=tmp_path.name):
            atomic.write_text(tmp_path, "new")

    def test_file_as_folder(self, target):
        with pytest.raises(OSError, match=r"cannot write.*result\.txt.*below\.txt"):
            atomic.write_text(target / "below.txt", "new")

    def test_what_is_no_regular_file_is_not_replaced(self, tmp_path):
        """Renaming over /dev/null is possible for root; a pipe is safe to try it on."""
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        with pytest.raises(OSError, match="not a regular file"):
            atomic.write_text(pipe, "new")
        assert pipe.is_fifo()

    @pytest.mark.skipif(AS_ROOT, reason="root may write everywhere")
    def test_read_only_folder(self, target):
        target.parent.chmod(0o500)
        try:
            with pytest.raises(PermissionError, match=r"cannot write.*result\.txt"):
                atomic.write_text(target, "new")
        finally:
            target.parent.chmod(0o700)
        assert target.read_text() == OLD

    def test_read_only_folder_is_named_by_the_target(self, target, monkeypatch):
        """As above, also where the tests run as root."""

        def refuse(path, *_):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(PermissionError, match=r"cannot write.*/result\.txt"):
            atomic.write_text(target, "new")

    def test_write_protected_file_is_respected(self, target, monkeypatch):
        target.chmod(0o444)
        if AS_ROOT:
            monkeypatch.setattr(os, "access", lambda *_: False)
        with pytest.raises(PermissionError, match=r"result\.txt"):
            atomic.write_text(target, "new")
        assert target.read_text() == OLD


class TestPermissions:
    @pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
    def test_new_file_follows_the_umask(self, tmp_path, umask, mode):
        previous = os.umask(umask)
        try:
            atomic.write_text(tmp_path / "new.txt", "new")
            assert os.umask(umask) == umask, "the umask of the process was changed"
        finally:
            os.umask(previous)
        assert stat.S_IMODE((tmp_path / "new.txt").stat().st_mode) == mode

    @pytest.mark.parametrize("mode", [0o600, 0o664])
    def test_existing_file_keeps_its_mode(self, target, mode):
        target.chmod(mode)
        atomic.write_text(target, "new")
        assert stat.S_IMODE(target.stat().st_mode) == mode

    def test_writer_that_makes_private_files(self, tmp_path):
        with atomic.atomic_path(tmp_path / "new.txt") as temporary:
            expected = stat.S_IMODE(temporary.stat().st_mode)
            temporary.chmod(0o600)
        assert stat.S_IMODE((tmp_path / "new.txt").stat().st_mode) == expected


class TestDurability:
    def test_file_is_flushed_before_the_rename_and_its_folder_after(self, target, monkeypatch):
        events = []
        replace = os.replace

        def note_flush(descriptor):
            kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
            events.append(f"flush {kind}")

        def note_replace(source, destination):
            events.append("replace")
            replace(source, destination)

        monkeypatch.setattr(os, "fsync", note_flush)
        monkeypatch.setattr(os, "replace", note_replace)
        atomic.write_text(target, "new")
        assert events == ["flush file", "replace", "flush folder"]

    def test_folder_that_cannot_be_flushed_is_no_failure(self, target, monkeypatch):
        def refuse_folders(descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        monkeypatch.setattr(os, "fsync", refuse_folders)
        atomic.write_text(target, "new")
        assert target.read_text() == "new"


HALF_WRITER = """
import sys, time
from openmm_scoremd._files import atomic

with atomic.atomic_path(sys.argv[1]) as temporary, open(temporary, "w") as file:
    file.write("half")
    file.flush()
    print("writing", flush=True)
    time.sleep(600)
"""

#: Rewrites one file for ever; every version is a million times one letter.
ENDLESS_WRITER = """
import itertools, sys
from openmm_scoremd._files import atomic

for letter in itertools.cycle("abcdefgh"):
    with atomic.atomic_path(sys.argv[1]) as temporary, open(temporary, "w") as file:
        for _ in range(100):
            file.write(letter * 10_000)
            file.flush()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
class TestKill:
    def test_in_the_middle_of_a_file(self, target):
        command = [sys.executable, "-c", HALF_WRITER, str(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout.readline() == b"writing\n"
            writer.kill()
        assert target.read_text() == OLD
        leftovers = [name for name in contents(target.parent) if name != "result.txt"]
        assert len(leftovers) == 1
        assert leftovers[0].startswith(".result-")

    def test_at_any_moment_never_tears_the_file(self, target):
        target.write_text("a" * 1_000_000)
        for attempt in range(6):
            before = target.stat().st_mtime_ns
            command = [sys.executable, "-c", ENDLESS_WRITER, str(target)]
            with subprocess.Popen(command) as writer:
                # Kill while it is at work: after the first version it wrote, ever later.
                deadline = time.monotonic() + 60
                while target.stat().st_mtime_ns == before and time.monotonic() < deadline:
                    time.sleep(0.002)
                time.sleep(0.0037 * attempt)
                writer.kill()
            assert target.stat().st_mtime_ns != before, "the writer wrote nothing"
            text = target.read_text()
            assert len(text) == 1_000_000
            assert len(set(text)) == 1


class TestJSON:
    def test_json_takes_dataclasses_paths_and_arrays(self, tmp_path):
        @dataclasses.dataclass
        class Settings:
            path: Path
            steps: int

        content = {"settings": Settings(Path("a/b"), 3), "mean": np.float32(0.5), "x": np.eye(2)}
        atomic.write_json(tmp_path / "x.json", content)
        assert json.loads((tmp_path / "x.json").read_text()) == {
            "settings": {"path": "a/b", "steps": 3},
            "mean": 0.5,
            "x": [[1.0, 0.0], [0.0, 1.0]],
        }

    def test_json_of_something_else_is_an_error_and_leaves_the_old_file(self, target):
        with pytest.raises(TypeError, match="object cannot be written to JSON"):
            atomic.write_json(target, {"x": object()})
        assert target.read_text() == OLD
