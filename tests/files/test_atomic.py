"""Files that appear whole or not at all, with the permissions of those they replace."""

import errno
import os
import resource
import signal
import threading

import pytest
from children import FEW, MODES, NAMED, child, files, nameless
from tensor_files import reals

from qnumpy.files.atomic import AtomicFiles, replacing
from qnumpy.files.spec import TensorSpec
from qnumpy.files.store import Writer, load, save

SUFFIXES = ["npz", "safetensors"]


def interrupted(writer, a, error):
    writer.write("a", a)
    raise error


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("exists", [True, False])
def test_an_exception_in_the_middle_leaves_nothing(tmp_path, suffix, error, exists):
    path = tmp_path / f"a.{suffix}"
    if exists:
        path.write_bytes(b"before")
    arrays = {"a": reals(10), "b": reals(10)}
    writer = Writer(path, {n: TensorSpec.of(x) for n, x in arrays.items()})
    with pytest.raises(error), writer:
        interrupted(writer, arrays["a"], error)
    assert list(tmp_path.iterdir()) == ([path] if exists else [])
    assert not exists or path.read_bytes() == b"before"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_told(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))  # the disk is full after that many bytes
    try:
        with pytest.raises(OSError, match="no file was written") as caught:
            save(path, {"a": reals(1000), "b": reals(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_permissions_follow_the_umask_and_links_are_followed(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "link.npz").symlink_to(tmp_path / "deep" / "real.npz")
    before = os.umask(0o027)
    try:
        save(tmp_path / "link.npz", {"x": reals(2)})
    finally:
        os.umask(before)
    assert (tmp_path / "link.npz").is_symlink()
    assert (tmp_path / "deep" / "real.npz").stat().st_mode & 0o777 == 0o640


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(ValueError, match="save: path must be a regular file"):
        save(tmp_path / "a.npz", {})
    with pytest.raises(FileNotFoundError, match="no file was written"):
        save(tmp_path / "none" / "a.npz", {})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_long_name_of_a_file(tmp_path, suffix):
    path = tmp_path / ("日" * 80 + f".{suffix}")  # 240 bytes and more of the 255 a name may have
    save(path, {"x": reals(3)})
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="no file was written") as caught:
        save(tmp_path / ("日" * 90 + f".{suffix}"), {"x": reals(3)})
    assert caught.value.errno == errno.ENAMETOOLONG
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_replaced_file_keeps_its_permissions(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    save(path, {"x": reals(3)})
    for mode in (0o600, 0o640):
        path.chmod(mode)
        save(path, {"x": reals(4)})
        assert path.stat().st_mode & 0o777 == mode
    assert load(path)["x"].shape == (4,)


def written(path, error):
    with replacing(path, "x") as file:
        file.write("new")
        if error is not None:
            raise error


@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt()], ids=repr)
def test_replacing_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(type(error)):
        written(path, error)
    assert path.read_text() == "old"
    written(path, None)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_names_the_file_of_the_user(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(OSError, match="No space left on device; no file was written") as caught:
        written(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


# The end of the process: children that wait in the middle of a write, or are stopped at any moment of it.

WRITE = """
import sys, time
from threading import Thread
import numpy as np
from qnumpy.files.atomic import AtomicFiles
from qnumpy.files.spec import TensorSpec
from qnumpy.files.store import Writer

def write(pause):
    arrays = {name: np.ones((64, 64), np.float32) for name in "abcd"}
    specs = {name: TensorSpec.of(x) for name, x in arrays.items()}
    with Writer(sys.argv[1], specs, max_shard_bytes=20_000 if sys.argv[1].endswith("/") else None) as writer:
        for name, x in arrays.items():
            writer.write(name, x)
            if name == "b":
                pause()

def wait():
    print("ready", flush=True)
    time.sleep(60)
"""
TARGETS = ["a.npz", pytest.param("a.safetensors", marks=pytest.mark.slow), "folder/"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", [*FEW, "SIGKILL"])
def test_a_signal_in_the_middle_leaves_nothing(tmp_path, mode, target, name):
    (tmp_path / "folder").mkdir()
    path = f"{tmp_path}/{target}"
    number = getattr(signal, name)
    with child(f"{WRITE}{mode}\nwrite(wait)", path) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == -number, err
    if name == "SIGKILL" and mode:
        assert len(files(tmp_path)) == (1 if "." in target else 5)  # the shards and the index
        assert all(".qnumpy-tmp" in left for left in files(tmp_path))
        with child(f"{WRITE}{mode}\nwrite(lambda: None)", path) as process:  # the next run removes them
            _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert not any(".qnumpy-tmp" in left for left in files(tmp_path))
        assert len(load(path)) == 4
    else:
        assert files(tmp_path) == []


EXITS = {
    "sys.exit": "write(sys.exit)",
    "exception": "write(lambda: 1 / 0)",
    "sys.exit in a thread": "t = Thread(target=write, args=[sys.exit]); t.start(); t.join()",
    "daemon thread": "Thread(target=write, args=[wait], daemon=True).start(); time.sleep(1)",
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", list(EXITS))
def test_other_ends_leave_nothing(tmp_path, mode, end):
    with child(f"{WRITE}{mode}\n{EXITS[end]}", tmp_path / "a.npz") as process:
        process.communicate(timeout=60)
    assert files(tmp_path) == []


@pytest.mark.parametrize("mode", MODES)
def test_a_child_that_was_forked_does_not_remove_the_file_of_its_parent(tmp_path, mode):
    path = tmp_path / "a.npz"
    fork = """
import os, warnings
def fork():
    child = os.fork()
    if child == 0:
        sys.exit()  # unwinds the with block, and calls the functions of atexit
    os.waitpid(child, 0)
warnings.simplefilter("ignore")
write(fork)
"""
    with child(f"{WRITE}{mode}\n{fork}", path) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert files(tmp_path) == ["a.npz"]
    assert len(load(path)) == 4


def test_a_writer_leaves_the_temporary_file_of_a_living_one(tmp_path):
    path = tmp_path / "a.npz"
    with child(f"{WRITE}{NAMED}\nwrite(wait)", path) as process:
        assert process.stdout.readline() == "ready\n"
        save(path, {"x": reals(3)})
        assert len(files(tmp_path)) == 2
        process.kill()
    save(path, {"x": reals(4)})
    assert files(tmp_path) == ["a.npz"]
    assert load(path)["x"].shape == (4,)


def test_files_of_others_stay(tmp_path):
    names = [".a.npz.00000000.tmp", ".a.npz.0000000g.qnumpy-tmp", ".b.npz.00000000.qnumpy-tmp", "a.npz.qnumpy-tmp"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".a.npz.00000001.qnumpy-tmp").write_bytes(b"of a dead writer")
    (tmp_path / ".a.npz.00000002.qnumpy-tmp").mkdir()
    save(tmp_path / "a.npz", {"x": reals(3)})
    assert files(tmp_path) == sorted([*names, "a.npz"])


@pytest.mark.parametrize("mode", [False, pytest.param(True, marks=nameless)])
def test_handlers_of_signals_are_as_before(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(AtomicFiles, "nameless", mode)
    mine = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        numbers = signal.valid_signals()
        before = [signal.getsignal(number) for number in numbers]
        with replacing(tmp_path / "a.json", "x") as file:
            file.write("{}")
            with replacing(tmp_path / "b.json", "x"):
                pass
        save(tmp_path / "a.npz", {"x": reals(3)})
        threads = [threading.Thread(target=save, args=(tmp_path / f"{k}.npz", {"x": reals(3)})) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [signal.getsignal(number) for number in numbers] == before
    finally:
        signal.signal(signal.SIGUSR1, mine)
