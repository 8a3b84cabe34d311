"""Files that appear whole or not at all, with the permissions of those they replace."""

import errno
import os
import resource

import pytest
from tensor_files import reals

from qnumpy.files.atomic import replacing
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
