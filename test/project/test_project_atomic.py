"""Files and folders appear complete or not at all, also when the system refuses to write."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from occ_perception.atomic import (
    OutputError,
    atomic_path,
    refuse_existing,
    write_whole,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_not_there_before_it_is_whole_and_alone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    with atomic_path(path) as unfinished:
        unfinished.write_text("half")
        assert unfinished.name == path.name and not path.exists()
        unfinished.write_text("whole")
    assert path.read_text() == "whole" and names(path.parent) == ["a.txt"]
    write_whole(path, "new")
    assert path.read_text() == "new" and names(path.parent) == ["a.txt"]


def test_permissions_are_those_of_any_other_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_whole(tmp_path / "whole", "")
    with atomic_path(tmp_path / "folder") as unfinished:
        unfinished.mkdir()
    (tmp_path / "other").mkdir()
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes["plain"] == modes["whole"] and modes["other"] == modes["folder"]


def test_a_folder_appears_whole_and_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for content in ("first", "second"):
        refused = path.exists()
        try:
            with atomic_path(path) as unfinished:
                unfinished.mkdir()
                (unfinished / "a").write_text(content)
        except OutputError as error:
            assert refused and str(path) in str(error)
    assert (path / "a").read_text() == "first" and names(tmp_path) == ["out"]
    with pytest.raises(OutputError, match="out exists already"):
        refuse_existing(path)
    refuse_existing(tmp_path / "elsewhere")


@pytest.mark.parametrize("failure", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_leaves_the_older_file_and_nothing_else(tmp_path, failure) -> None:
    path = tmp_path / "a.txt"
    path.write_text("older")
    with pytest.raises(type(failure)) as caught, atomic_path(path) as unfinished:
        unfinished.write_text("half")
        raise failure
    assert caught.value is failure
    assert path.read_text() == "older" and names(tmp_path) == ["a.txt"]


def test_where_nothing_was_written_nothing_appears(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []


def test_long_names_and_many_writers_at_once(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".txt")
    contents = [str(n) * 100_000 for n in range(8)]
    with ThreadPoolExecutor(len(contents)) as threads:
        list(threads.map(write_whole, [path] * 400, contents * 50))  # raises what a thread raised
    assert path.read_text() in contents and names(tmp_path) == [path.name]


_BEGINS = (
    "import sys\nfrom occ_perception.atomic import atomic_path\n"
    "with atomic_path(sys.argv[1], alone=True) as unfinished:\n"
    "    unfinished.write_text('half')\n    print('begun', flush=True)\n    sys.stdin.read()"
)


@contextmanager
def _another_process_writes(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", _BEGINS, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"begun\n"
        yield process


def test_leftovers_of_a_killed_process_are_deleted_by_the_next_writing(tmp_path: Path) -> None:
    with _another_process_writes(tmp_path / "a.txt") as process:
        process.kill()
    assert names(tmp_path) == [".a.txt.unfinished"]
    write_whole(tmp_path / "a.txt", "whole")
    assert names(tmp_path) == ["a.txt"]


def test_two_processes_write_one_file_or_the_second_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with _another_process_writes(path) as process:
        with (
            pytest.raises(OutputError, match="is being written by another process"),
            atomic_path(path, alone=True),
        ):
            pass
        write_whole(path, "ours")
        assert path.read_text() == "ours"
        assert names(tmp_path) == [".a.txt.unfinished", "a.txt"]
        process.communicate(b"", timeout=60)
    assert process.returncode == 0
    assert path.read_text() == "half" and names(tmp_path) == ["a.txt"]


def test_a_file_instead_of_a_folder_and_the_reverse_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file: is a file, expected a folder") as caught:
        write_whole(tmp_path / "file" / "deep" / "a.txt", "")
    assert str(tmp_path / "file" / "deep" / "a.txt") in str(caught.value)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="folder is an existing folder"):
        write_whole(tmp_path / "folder", "")
    assert names(tmp_path) == ["file", "folder"]


def test_a_permission_error_names_the_folder(locked_folder: Path) -> None:
    with pytest.raises(OutputError, match="permission denied") as caught:
        write_whole(locked_folder / "deep" / "a.txt", "")
    assert f"{locked_folder}: " in str(caught.value)


def _bytes(path: Path) -> None:
    path.write_bytes(bytes(4_000_000))


def _arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(1_000_000, np.float32))


def _tensors(path: Path) -> None:
    save_file({"a": torch.ones(1_000_000)}, path)


def _checkpoint(path: Path) -> None:
    torch.save({"a": torch.ones(1_000_000)}, path)


@pytest.mark.parametrize("write", [_bytes, _arrays, _tensors, _checkpoint])
def test_a_full_disk_is_reported_for_every_library(small_disk: Path, write) -> None:
    path = small_disk / "deep" / "a.bin"
    with (
        pytest.raises(OutputError, match="no space left") as caught,
        atomic_path(path) as unfinished,
    ):
        write(unfinished)
    assert str(path) in str(caught.value)
    assert names(path.parent) == []
    # torch keeps its file open, and its space used, until the exception is released.
    del caught
    gc.collect()
    write_whole(path, "small")


def test_a_file_larger_than_the_process_may_write(tmp_path: Path) -> None:
    with _at_most(1 << 20), pytest.raises(OutputError, match="larger than may be written"):
        write_whole(tmp_path / "a.bin", bytes(4_000_000))
    assert names(tmp_path) == []


@contextmanager
def _at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_other_errors_of_the_block_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic_path(tmp_path / "a.txt"):
        (tmp_path / "input").read_text()
    assert caught.value.filename == str(tmp_path / "input")


def test_ctrl_c_in_mid_writing_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"

    def interrupt() -> None:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as unfinished:
        unfinished.write_text("half")
        time.sleep(10)
    assert names(tmp_path) == []
