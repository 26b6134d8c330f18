"""Files and folders written atomically: complete or not there, with normal permissions, and one clear error."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from con360av_jax.errors import CheckpointError, Con360Error
from con360av_jax.runtime.files import file_stem, remove_leftovers, replacing, write_text
from tests.support.damage import small_files
from tests.support.paths import ROOT


def test_a_file_takes_the_place_of_the_old_one_only_when_it_is_complete(tmp_path: Path):
    path = tmp_path / "new" / "page.html"
    write_text(path, "old")
    with replacing(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old" and aside.parent == path.parent
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), KeyError("bug")])
def test_an_error_leaves_the_old_file_or_no_folder_and_passes(tmp_path: Path, stop: BaseException):
    write_text(tmp_path / "file", "old")
    with pytest.raises(type(stop)), replacing(tmp_path / "file") as aside:
        aside.write_text("half")
        raise stop
    with pytest.raises(type(stop)), replacing(tmp_path / "folder") as aside:
        (aside / "below").mkdir(parents=True)
        raise stop
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_a_folder_takes_its_name_only_when_it_is_complete_and_never_that_of_a_full_one(tmp_path: Path):
    for content in ("first", "second"):
        try:
            with replacing(tmp_path / "folder", CheckpointError) as aside:
                aside.mkdir()
                (aside / content).touch()
                assert not (tmp_path / "folder" / content).exists()
        except CheckpointError as error:
            assert content == "second" and "folder cannot be written (Directory not empty)" in str(error)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["folder", "folder/first"]


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path):
    said = r"text cannot be written \(File too large\): make room"
    with small_files(1000), pytest.raises(CheckpointError, match=said) as caught:
        write_text(tmp_path / "text", "a" * 2000, CheckpointError)
    assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == errno.EFBIG
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_a_file_or_below_one_is_one_clear_error(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder", tmp_path / "file" / "below"):
        with pytest.raises(Con360Error, match="cannot be written"):
            write_text(path, "")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_permissions_follow_the_umask(tmp_path: Path, request: pytest.FixtureRequest, mask: int, mode: int):
    before = os.umask(mask)
    request.addfinalizer(lambda: os.umask(before))
    write_text(tmp_path / "text", "")
    assert (tmp_path / "text").stat().st_mode & 0o777 == mode


def test_what_a_killed_process_left_is_hidden_harmless_and_removed_by_name(tmp_path: Path):
    script = (
        "import os, sys; from con360av_jax.runtime.files import replacing\n"
        "with replacing(sys.argv[1]) as file, replacing(sys.argv[2]) as folder:\n"
        "    file.write_text('half'); folder.mkdir(); (folder / 'half').touch(); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "file", tmp_path / "folder"], cwd=ROOT)
    assert len(list(tmp_path.iterdir())) == 2 and not list(tmp_path.glob("[!.]*"))
    write_text(tmp_path / "file", "new")
    remove_leftovers(tmp_path, "folder")
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.parametrize("name", ["m" * 255, "é" * 127, "😀" * 63])
def test_a_name_as_long_as_the_file_system_takes_can_be_written(tmp_path: Path, name: str):
    write_text(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "text"


def test_file_stems_are_short_different_and_stay_as_they_are():
    long = ["é" * 120 + end for end in ("a", "b")]
    names = ["walk 360 #vr", "a_b", "a/b", "../../etc/passwd", *long]
    stems = [file_stem(name) for name in names]
    assert stems[:2] == names[:2]
    assert len(set(stems)) == len(names)
    assert all(len(stem.encode()) <= 200 and "/" not in stem for stem in stems)
    assert [file_stem(stem) for stem in stems] == stems
