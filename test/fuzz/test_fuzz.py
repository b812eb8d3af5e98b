"""A slice of the fuzz run, and the run itself: it repeats, and it finds what is wrong."""

from __future__ import annotations

from pathlib import Path
from random import Random

import fuzz
import pytest
from readers import READERS, change_any_file


@pytest.mark.slow(ci=True)
def test_no_reader_crashes_hangs_or_takes_the_memory() -> None:
    findings = fuzz.fuzz(list(READERS), seconds=45.0, seed=0)
    assert all(found.outcomes.total() for found in findings.values())
    failures = [
        f"{name}:{number} {text}"
        for name, found in findings.items()
        for number, text in found.failures.items()
    ]
    assert not failures, "\n".join(failures)


def _make(folder: Path) -> None:
    (folder / "value.json").write_text('{"a": [1, 2, 3]}')


def _crash(folder: Path) -> None:
    if (folder / "value.json").read_text() != '{"a": [1, 2, 3]}':
        raise RuntimeError("a mutated file")


def test_a_finding_is_reported_with_its_number_and_repeats(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _make(tmp_path)
    contents = []
    for _ in range(2):
        _make(tmp_path)
        change_any_file(tmp_path, Random("0/brittle/0"))
        contents.append((tmp_path / "value.json").read_bytes())
    assert contents[0] == contents[1] != b'{"a": [1, 2, 3]}'
    outcome, text = fuzz._outcome(_crash, tmp_path)
    assert outcome == "failed" and "RuntimeError: a mutated file" in text
    monkeypatch.setattr(fuzz, "CPU_LIMIT_S", 0.05)
    previous = fuzz.signal.signal(fuzz.signal.SIGPROF, fuzz._stop)

    def hang(_: Path) -> None:
        while True:
            pass

    assert fuzz._outcome(hang, tmp_path)[1].startswith("more than 0.05 s of CPU time")
    fuzz.signal.signal(fuzz.signal.SIGPROF, previous)
