"""Finds and opens the files of a recording."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import zstandard

from occ_perception.bags.folder_metadata import METADATA_FILE, FolderMetadata, read_metadata
from occ_perception.bags.mcap_file import McapFile
from occ_perception.bags.ros1_file import Ros1File
from occ_perception.bags.sqlite_file import SqliteFile
from occ_perception.bags.stored_file import Note, StoredFile
from occ_perception.errors import git_lfs_advice

_COMPRESSED = ".zstd"
_STORAGE_SUFFIXES = (".mcap", ".db3")
_ADVICE = {
    ".bag": "; `rosbag reindex` or `rosbag fix` may repair it",
    ".db3": "; `sqlite3 FILE .recover` may save its messages",
}


def open_files(
    path: Path, note: Note, stack: ExitStack
) -> tuple[list[StoredFile], FolderMetadata | None]:
    """The readable files of a recording, and what its metadata.yaml says, if it has one.

    Args:
        path: rosbag2 folder, ``.mcap``, ``.db3`` or ``.bag`` file.
        note: takes problems: files that are damaged, or that do not exist.
        stack: deletes the temporary files of file-compressed recordings when it closes.

    Raises:
        ValueError: there is no recording, or nothing of it can be read.
    """
    opener = _Opener(note, stack)
    if not path.exists():
        raise ValueError(f"no recording at {path}: there is no such file or folder")
    if path.is_file():
        if _plain_name(path).suffix not in (*_STORAGE_SUFFIXES, ".bag"):
            raise ValueError(
                f"{path} is not a recording: expected a rosbag2 folder or a file ending in .mcap, "
                ".db3 or .bag"
            )
        return [opener.open(path)], None
    files = sorted(f for f in path.iterdir() if _plain_name(f).suffix in _STORAGE_SUFFIXES)
    metadata = None
    why_no_metadata = ""
    if (path / METADATA_FILE).is_file():
        try:
            metadata = read_metadata(path / METADATA_FILE)
        except ValueError as error:
            why_no_metadata = str(error)
    else:
        why_no_metadata = f"{METADATA_FILE} is missing, the recording was not closed properly"
    if not files:
        raise ValueError(_no_files(path, metadata, why_no_metadata))
    if metadata is None:
        note("no_metadata", why_no_metadata)
    else:
        files = _listed(files, metadata, note)
    return opener.open_each(files), metadata


def _no_files(path: Path, metadata: FolderMetadata | None, why_no_metadata: str) -> str:
    if metadata is not None:
        listed = ", ".join(metadata.files) or "nothing"
        return f"{path} has no .mcap or .db3 file; its {METADATA_FILE} lists {listed}"
    if (path / METADATA_FILE).is_file():
        return f"{path} cannot be read: {why_no_metadata}"
    return (
        f"{path} is not a rosbag2 folder: it has neither {METADATA_FILE} nor .mcap or .db3 files. "
        "A folder of images is read by `occ run` and `occ map`, with --rig and --poses"
    )


def _listed(files: list[Path], metadata: FolderMetadata, note: Note) -> list[Path]:
    """The files that the metadata lists; if some of them do not exist, all files of the folder."""
    names = {file.name for file in files}
    # A file may have been unpacked, or packed, after it was recorded.
    listed = [name if name in names else _other_name(name) for name in metadata.files]
    missing = [name for name, here in zip(metadata.files, listed, strict=True) if here not in names]
    if missing:
        text = f"{METADATA_FILE} lists files that do not exist: {', '.join(missing)}"
        note("damaged_file", f"{text}; the others are read")
        return files
    others = sorted(names.difference(listed))
    if others:
        note(
            "file_not_listed",
            f"{', '.join(others)}: not read, because {METADATA_FILE} does not list it; to read it, "
            "give its path",
        )
    return [file for file in files if file.name in listed]


def _other_name(name: str) -> str:
    return name.removesuffix(_COMPRESSED) if name.endswith(_COMPRESSED) else name + _COMPRESSED


def _plain_name(path: Path) -> Path:
    """The path without the suffix of compressed files."""
    return path.with_name(path.name.removesuffix(_COMPRESSED))


class _Opener:
    """Opens files of any format."""

    def __init__(self, note: Note, stack: ExitStack) -> None:
        self._note = note
        self._stack = stack

    def open_each(self, files: list[Path]) -> list[StoredFile]:
        """The readable ones of several files; refuses if none has a message."""
        opened: list[StoredFile] = []
        refusals = []
        for file in files:
            try:
                opened.append(self.open(file))
            except ValueError as error:  # noqa: PERF203  (opening takes longer)
                refusals.append(str(error))
        if refusals and all(file.span_ns is None for file in opened):
            raise ValueError("; ".join(refusals[:3]))
        for refusal in refusals:
            self._note("damaged_file", refusal)
        return opened

    def open(self, path: Path) -> StoredFile:
        """Open one file."""
        plain = _plain_name(path)
        try:
            if plain != path:
                plain = self._unpacked(path)
            if plain.suffix == ".mcap":
                return McapFile(plain, self._note)
            return SqliteFile(plain, self._note) if plain.suffix == ".db3" else Ros1File(plain)
        except Exception as error:  # damage can raise any error of the parsers
            with path.open("rb") as file:
                advice = git_lfs_advice(file.read(100))
            why = advice or reason_of(error) + _ADVICE.get(plain.suffix, "")
            raise ValueError(f"{path} cannot be read: {why}") from error

    def _unpacked(self, path: Path) -> Path:
        """An unpacked copy, without the part behind a damage."""
        copy = Path(self._stack.enter_context(TemporaryDirectory())) / _plain_name(path).name
        with path.open("rb") as packed, copy.open("wb") as unpacked:
            content = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
            try:
                shutil.copyfileobj(content, unpacked)
            except zstandard.ZstdError as error:
                if not unpacked.tell():
                    raise
                self._note("damaged_file", f"{path.name} is damaged ({reason_of(error)})")
        return copy


def reason_of(error: Exception) -> str:
    """The text of any exception, without a full stop."""
    return str(error).rstrip(".") or type(error).__name__
