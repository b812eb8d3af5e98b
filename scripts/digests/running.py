"""Runs the jobs in separate processes and collects their digests."""

from __future__ import annotations

import multiprocessing
import platform
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from values import Named, digest

ROOT = Path(__file__).resolve().parents[2]

Job = Callable[[Path], Named]
"""A function from an empty scratch folder to names and values."""


def jobs() -> dict[str, Job]:
    """Every job by name; the names of its digests start with it."""
    _use_this_checkout()
    import data_sets
    import fits
    import networks
    import parts
    import recordings
    import towns

    together: dict[str, Job] = {}
    for module in (networks, parts, towns, recordings, data_sets, fits):
        together |= module.jobs()
    return together


def job_names() -> list[str]:
    """The names of all jobs."""
    return list(jobs())


def header() -> dict[str, str]:
    """The environment that the digests depend on."""
    import numpy
    import torch

    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "cpu": model[0] if model else platform.machine(),
        "revision": _git("rev-parse", "HEAD") + (" and changes" if changed else ""),
    }


def run(names: list[str], processes: int) -> tuple[dict[str, str], dict[str, str]]:
    """Digests by name, and the traceback of every job that failed."""
    digests: dict[str, str] = {}
    failures: dict[str, str] = {}
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        work = {pool.submit(run_job, name): name for name in names}
        for done, future in enumerate(as_completed(work), start=1):
            name = work[future]
            try:
                found, seconds = future.result()
            except Exception:
                failures[name] = traceback.format_exc()
                print(f"{name} failed:\n{failures[name]}", flush=True)
                continue
            digests |= found
            print(f"{done}/{len(work)} {name}: {len(found)} digests, {seconds:.1f} s", flush=True)
    return digests, failures


def run_job(name: str) -> tuple[dict[str, str], float]:
    """The digests of one job, and its time in seconds; independent of earlier jobs."""
    import numpy
    import torch

    begun = time.perf_counter()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)
    random.seed(0)
    numpy.random.seed(0)  # noqa: NPY002, of libraries
    torch.manual_seed(0)
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="digests-") as scratch:
        for part, value in jobs()[name](Path(scratch)):
            key = f"{name}/{part}"
            if key in found:
                raise ValueError(f"two values have the name {key}")
            found[key] = digest(value)
    if not found:
        raise ValueError(f"job {name} returned no values")
    return found, time.perf_counter() - begun


def _use_this_checkout() -> None:
    """Import the packages and the small inputs of the tests from this checkout."""
    for folder in (ROOT / "test", ROOT / "training", ROOT):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    import occ_perception

    place = Path(str(occ_perception.__file__)).resolve()
    if not place.is_relative_to(ROOT):
        raise RuntimeError(f"occ_perception comes from {place}, not from {ROOT}")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"
