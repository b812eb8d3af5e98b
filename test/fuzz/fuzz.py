"""Feeds every reader with mutated files: `python test/fuzz/fuzz.py --minutes 10 --seed 0`.

A reader may return, or refuse its input with an OccError. Anything else is a finding: another
exception, a crash of the process, more than a few seconds of CPU time, or more memory than the
bound. Input number N of a reader depends only on the seed; `--only READER:N` runs that one alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from readers import READERS

MEMORY_BOUND = 1 << 30
"""Bytes of address space beyond what the libraries take; the system refuses more."""

CPU_LIMIT_S = 10.0
_SILENCE_S = 300.0  # of wall time, on a busy machine


class TookTooLong(BaseException):
    """An input took more CPU time than the limit."""


@dataclass
class Findings:
    """What became of the inputs of one reader.

    Attributes:
        outcomes: ``read``, ``refused`` or ``failed`` -> number of inputs.
        failures: number of the input -> how it failed.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)

    def add(self, number: int, outcome: str, text: str = "") -> None:
        """One input."""
        self.outcomes[outcome] += 1
        if outcome == "failed":
            self.failures[number] = text

    def distinct(self) -> dict[int, str]:
        """The first failure of each kind: error and line of code."""
        kinds: dict[tuple[str, ...], int] = {}
        for number, text in self.failures.items():
            lines = text.strip().splitlines()
            places = [line for line in lines if line.startswith("  File ")]
            kinds.setdefault((lines[-1].split(":")[0], *places[-1:]), number)
        return {number: self.failures[number] for number in kinds.values()}


def fuzz(names: list[str], seconds: float, seed: int) -> dict[str, Findings]:
    """Feed readers in turn until the time is over, each at least once.

    Args:
        names: of the readers.
        seconds: wall time.
        seed: of the mutations.
    """
    until = time.monotonic() + seconds
    findings = {name: Findings() for name in names}
    begun = dict.fromkeys(names, 0)
    while True:
        for name in names:
            share = max(1.0, (until - time.monotonic()) / len(names) / 2)
            first = begun[name]
            begun[name] = run_inputs(name, seed, range(first, first + 10**6), share, findings[name])
            if time.monotonic() > until and all(begun.values()):
                return findings


def run_inputs(name: str, seed: int, numbers: range, seconds: float, findings: Findings) -> int:
    """Feed a reader in a process of its own; returns the number of the next input.

    Args:
        name: of the reader.
        seed: of the mutations.
        numbers: of the inputs.
        seconds: wall time for them; the first is always run.
        findings: added to.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, name, seed, numbers, seconds))
    process.start()
    theirs.close()
    number = numbers.start
    try:
        while ours.poll(_SILENCE_S):
            message = ours.recv()
            if message is None:
                break
            number, outcome, text = message
            if outcome == "begun":
                continue
            findings.add(number, outcome, text)
            number += 1
        else:
            findings.add(number, "failed", f"no sign of life for {_SILENCE_S:g} s")
            number += 1
    except EOFError:
        process.join()
        findings.add(number, "failed", f"the process died with exit code {process.exitcode}")
        number += 1
    finally:
        process.kill()
        process.join()
    return number


def _work(pipe: Connection, name: str, seed: int, numbers: range, seconds: float) -> None:
    """Run inputs in this process, and report each."""
    reader = READERS[name]
    signal.signal(signal.SIGPROF, _stop)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as kept:
        valid = Path(kept) / "valid"
        valid.mkdir()
        reader.make(valid)
        reader.read(valid)  # imports what it needs, and the valid input must be read
        _bound_memory()
        until = time.monotonic() + seconds
        for number in numbers:
            pipe.send((number, "begun", ""))
            folder = Path(kept) / "input"
            shutil.copytree(valid, folder)
            reader.change(folder, Random(f"{seed}/{name}/{number}"))
            pipe.send((number, *_outcome(reader.read, folder)))
            shutil.rmtree(folder)
            if time.monotonic() > until:
                break
    pipe.send(None)


def _outcome(read: Any, folder: Path) -> tuple[str, str]:
    from occ_perception.errors import OccError

    signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
    try:
        read(folder)
    except OccError as error:
        return "refused", str(error)
    except TookTooLong:
        return "failed", f"more than {CPU_LIMIT_S:g} s of CPU time\n{traceback.format_exc()}"
    except Exception:
        return "failed", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "read", ""


def _stop(*_: object) -> None:
    raise TookTooLong


def _bound_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BOUND
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


def main() -> int:
    """Run, and print what was found; the exit code is 1 if an input failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", default=",".join(READERS), help="names separated by commas")
    parser.add_argument("--only", metavar="READER:N", help="one input alone")
    options = parser.parse_args()
    if options.only:
        name, _, number = options.only.partition(":")
        first = int(number)
        findings = {name: Findings()}
        run_inputs(name, options.seed, range(first, first + 1), 0.0, findings[name])
    else:
        findings = fuzz(options.readers.split(","), 60.0 * options.minutes, options.seed)
    print(f"{'reader':<12}{'inputs':>8}{'read':>8}{'refused':>9}{'failed':>8}")
    for name, found in findings.items():
        counts = [found.outcomes[key] for key in ("read", "refused", "failed")]
        print(f"{name:<12}{sum(counts):>8}{counts[0]:>8}{counts[1]:>9}{counts[2]:>8}")
    for name, found in findings.items():
        for number, text in found.distinct().items():
            print(f"\n{name}:{number} (seed {options.seed})\n{text}")
    return int(any(found.failures for found in findings.values()))


if __name__ == "__main__":
    sys.exit(main())
