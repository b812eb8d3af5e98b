"""Kept checkpoints: fetched from a real server on loopback, continued, recorded, verified."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hub_server import Hub, hub_on_loopback

from occ_perception.models.zoo import get_card
from occ_perception.runtime.weight_files import (
    WeightsError,
    fetch_weights,
    find_weights,
    recorded_checksum,
    weights_folder,
    weights_path,
)

CARD = get_card("alocc_2d_mini")
NAME = "alocc_2d_mini_r50_256x704_bevdet_preatrain_16f.pth"
CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCC_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def hub():
    with hub_on_loopback(NAME, CONTENT) as server:
        yield server


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OCC_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert weights_folder() == Path("/somewhere/occ_perception")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights_folder() == Path.home() / ".cache/occ_perception"


def test_a_file_is_fetched_once_recorded_and_found(hub: Hub, folder: Path) -> None:
    assert find_weights(CARD) is None
    path = fetch_weights(CARD, hub.url)
    assert path == folder / NAME == find_weights(CARD)
    assert path.read_bytes() == CONTENT
    assert (folder / f"{NAME}.sha256").read_text() == f"{SHA256}  {NAME}\n"
    assert fetch_weights(CARD, hub.url) == path and len(hub.ranges) == 1
    assert sorted(p.name for p in folder.iterdir()) == [NAME, f"{NAME}.sha256"]


def test_what_has_arrived_is_continued(hub: Hub, folder: Path) -> None:
    folder.mkdir()
    (folder / f"{NAME}.{SHA256[:12]}.part").write_bytes(CONTENT[:100_000])
    (folder / f"{NAME}.{'0' * 12}.part").write_bytes(b"of an older file")
    assert fetch_weights(CARD, hub.url).read_bytes() == CONTENT
    assert hub.ranges == ["bytes=100000-"]


def test_a_changed_file_is_refused(hub: Hub) -> None:
    path = fetch_weights(CARD, hub.url)
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(WeightsError, match=rf"expected {SHA256} \(recorded here\).*fetch it again"):
        fetch_weights(CARD, hub.url)


def test_a_file_other_than_the_cards_is_refused(hub: Hub) -> None:
    with pytest.raises(WeightsError, match=rf"expected {'0' * 64} \(published\)"):
        fetch_weights(replace(CARD, sha256="0" * 64), hub.url)


def test_a_download_that_is_not_what_the_server_says_is_thrown_away(hub: Hub, folder: Path) -> None:
    hub.checksum = "1" * 64
    with pytest.raises(WeightsError, match=f"arrived with sha256 {SHA256}"):
        fetch_weights(CARD, hub.url)
    assert list(folder.iterdir()) == []


def test_a_file_put_there_by_hand_is_recorded_at_first_use(folder: Path) -> None:
    folder.mkdir()
    (folder / NAME).write_bytes(CONTENT)
    path = fetch_weights(CARD, "http://127.0.0.1:1")  # nobody is asked
    assert recorded_checksum(path) == SHA256


def test_without_a_server_the_message_says_what_to_do_by_hand(folder: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(WeightsError) as caught:
            fetch_weights(CARD, endpoint)
    message = str(caught.value)
    assert f"fetch {CARD.url} by hand and put it at {folder / NAME}" in message
    assert "\n" not in message


def test_a_file_the_server_lacks_is_named(hub: Hub) -> None:
    hub.name = "another.pth"
    with pytest.raises(WeightsError, match="404"):
        fetch_weights(CARD, hub.url)


def test_models_without_published_weights_say_so() -> None:
    card = replace(CARD, url=None)
    assert find_weights(card) is None
    with pytest.raises(WeightsError, match="no checkpoint of alocc_2d_mini is published"):
        weights_path(card)


def test_a_killed_download_goes_on_where_it_was(folder: Path) -> None:
    """Two processes of the console script, the first one killed in mid-file."""
    content = np.random.default_rng(1).bytes(24 << 20)
    command = [sys.executable, "-c", "from occ_perception.cli import main; main()"]
    command += ["weights", "fetch", "alocc_2d_mini"]
    part = folder / f"{NAME}.{hashlib.sha256(content).hexdigest()[:12]}.part"
    with hub_on_loopback(NAME, content) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "OCC_WEIGHTS": str(folder)}
        hub.stall_after = 16 << 20
        first = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 60
            while not (part.is_file() and part.stat().st_size):
                assert first.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            first.kill()
            first.wait()
        arrived = part.stat().st_size
        hub.stall_after = None
        second = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    assert second.returncode == 0, second.stderr
    assert 0 < arrived < len(content)
    assert f"bytes={arrived}-" in hub.ranges
    assert (folder / NAME).read_bytes() == content
    assert second.stdout.startswith(f"{folder / NAME}: fetched, sha256 ")
