"""The script that shows that a refactoring changes no bit of the outputs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "digests"))

from values import digest, files_in, flat

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "digests"


def digests(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    """Digests of one network, computed twice."""
    folder = tmp_path_factory.mktemp("digests")
    files = folder / "first.json", folder / "second.json"
    for file in files:
        done = digests("make", file, "--only", "network/alocc_town")
        assert done.returncode == 0, done.stdout + done.stderr
    return files


def test_a_network_has_the_same_digests_every_time(made) -> None:
    done = digests("compare", *made)
    assert done.returncode == 0, done.stdout
    names = json.loads(made[0].read_text())["digests"]
    for part in ("keys", "plain/frame2/labels", "as_run/frame2/labels"):
        assert f"network/alocc_town/{part}" in names


def test_what_changed_and_what_is_missing_is_named(made, tmp_path) -> None:
    before = json.loads(made[0].read_text())
    changed, gone, *_ = sorted(before["digests"])
    before["digests"][changed] = "0" * 64
    del before["digests"][gone]
    before["digests"]["elsewhere"] = "0" * 64
    (tmp_path / "changed.json").write_text(json.dumps(before))
    done = digests("compare", tmp_path / "changed.json", made[1])
    assert done.returncode == 1
    assert done.stdout.splitlines()[:-1] == [
        f"different: {changed}",
        "only before: elsewhere",
        f"only after: {gone}",
    ]


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path) -> None:
    done = digests("make", tmp_path / "none.json", "--only", "no such job")
    assert done.returncode == 1
    assert "no job matches 'no such job'" in done.stdout
    assert not (tmp_path / "none.json").exists()


def test_an_array_is_its_type_shape_and_bits() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert digest(array) == digest(np.asfortranarray(array))
    values = [
        *(array, array.ravel(), array.astype(np.float64), array + np.float32(1e-6)),
        *(np.float32(0.0), np.float32(-0.0), 0.0, 0, "0", None, torch.zeros(1), [array]),
    ]
    assert len({digest(value) for value in values}) == len(values)
    half = torch.ones(2, dtype=torch.bfloat16)
    assert digest(half) != digest(half * 1.01)
    with pytest.raises(TypeError, match="no digest of a object"):
        digest(object())


def test_nested_values_get_names_of_their_own() -> None:
    found = dict(flat({"a": [1, 2], "b": [np.zeros(2), {"c": None}]}, "x"))
    assert list(found) == ["x.a", "x.b.0", "x.b.1.c"]


def test_the_place_of_a_folder_does_not_matter(tmp_path) -> None:
    for name in ("one", "two"):
        file = tmp_path / name / "set/index.json"
        file.parent.mkdir(parents=True)
        file.write_text(f'{{"root": "{tmp_path / name}/set"}}')
    first, second = (dict(files_in(tmp_path / name / "set")) for name in ("one", "two"))
    assert first == second == {"index.json": b'{"root": "SCRATCH/set"}'}
