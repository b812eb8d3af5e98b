"""Where released checkpoints are kept on this machine, and how they get there.

One folder of plain files under their original names, so that a file may as well be copied there
by hand. Beside each file lies ``FILE.sha256`` in the format of ``sha256sum``, written when the
file is first fetched or used; a file that no longer matches it is refused.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import urlsplit

from occ_perception.atomic import write_whole
from occ_perception.errors import OccError
from occ_perception.models.card import ModelCard
from occ_perception.user_cache import cache_folder

_SHA256_DIGITS = 64


class WeightsError(OccError):
    """A checkpoint that is not here, cannot be fetched, or is not what it was."""


def weights_folder() -> Path:
    """``OCC_WEIGHTS``, or ``occ_perception`` in the user's cache folder."""
    if folder := os.environ.get("OCC_WEIGHTS"):
        return Path(folder).expanduser()
    return cache_folder()


def weights_path(card: ModelCard) -> Path:
    """Where the released checkpoint of a model is kept, whether it is there or not.

    Raises:
        WeightsError: none is published.
    """
    return weights_folder() / Path(urlsplit(_url(card)).path).name


def fetch_weights(card: ModelCard, endpoint: str | None = None) -> Path:
    """The kept checkpoint of a model; downloads what is missing of it.

    An interrupted download is continued by the next call. The file is compared with the checksum
    of the card or else of the server, and with the one recorded here.

    Args:
        card: of the model.
        endpoint: another hub with the same content; what ``HF_ENDPOINT`` says unless given.

    Raises:
        WeightsError: none is published, the server cannot be reached or does not have it, or the
            file is not what it should be. The message says what to do by hand.
    """
    path = weights_path(card)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(card, path, endpoint)
    verify_kept(card, path)
    return path


def find_weights(card: ModelCard) -> Path | None:
    """The packaged or kept checkpoint of a model if it is here; nothing is downloaded or read."""
    if card.packaged is None and card.url is None:
        return None
    path = card.packaged or weights_path(card)
    return path if path.is_file() else None


def verify_kept(card: ModelCard, path: Path, checksum: str | None = None) -> str:
    """Compare a kept file with what is known of it; record its checksum if nothing is.

    Args:
        card: whose released checkpoint the file is.
        path: the file.
        checksum: its sha256 where the caller knows it already.

    Returns:
        sha256, hexadecimal.

    Raises:
        WeightsError: the file is another one.
    """
    checksum = checksum or file_checksum(path)
    known = {"published": card.sha256, "recorded here": recorded_checksum(path)}
    for origin, expected in known.items():
        if expected is not None and checksum != expected:
            raise WeightsError(
                f"{path} has sha256 {checksum}, expected {expected} ({origin}): it is damaged or "
                f"another file. Remove it and {_record(path).name}, then fetch it again"
            )
    if recorded_checksum(path) is None:
        write_whole(_record(path), f"{checksum}  {path.name}\n")
    return checksum


def recorded_checksum(path: Path) -> str | None:
    """What ``FILE.sha256`` says, None without such a file."""
    record = _record(path)
    return record.read_text().split()[0] if record.is_file() else None


def file_checksum(path: Path) -> str:
    """sha256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _download(card: ModelCard, path: Path, endpoint: str | None) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get

    owner, repository, _, revision, *name = urlsplit(_url(card)).path.strip("/").split("/")
    url = hf_hub_url(f"{owner}/{repository}", "/".join(name), revision=revision, endpoint=endpoint)
    try:
        found = get_hf_file_metadata(url, endpoint=endpoint)
        etag = found.etag or "unknown"
        # Named after the content: what is left of an older file is never continued.
        part = path.with_name(f"{path.name}.{etag[:12]}.part")
        if part.is_file() and found.size is not None and part.stat().st_size > found.size:
            part.unlink()  # two downloads at once wrote into it
        with part.open("ab") as file:
            http_get(
                found.location,
                file,
                resume_size=file.tell(),
                expected_size=found.size,
                displayed_filename=path.name,
            )
    # Versions of the hub library differ in what they raise, and in the HTTP library below.
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0].rstrip(".")
        raise WeightsError(
            f"{path.name} could not be fetched: {type(error).__name__}: {reason}. Try again (what "
            f"has arrived is kept), or fetch {card.url} by hand and put it at {path}"
        ) from error
    # Large files are tagged with their sha256.
    if len(etag) == _SHA256_DIGITS and (checksum := file_checksum(part)) != etag:
        part.unlink()
        raise WeightsError(
            f"{card.url} arrived with sha256 {checksum}, the server says {etag}; "
            "it was thrown away, fetch it again"
        )
    part.replace(path)


def _url(card: ModelCard) -> str:
    if card.url is None:
        own = f". {card.note}" if card.packaged is not None else "; pass your own file"
        raise WeightsError(f"no checkpoint of {card.name} is published{own}")
    return card.url


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
