"""Tasks on local processes and on Ray give the same results, also if some fail."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from occ_training.parallel import Outcome, WorkError, run_all

from occ_perception.errors import MissingPackageError


def halve(number: int) -> tuple[int, int]:
    """Half of an even number, and the id of the process."""
    if number == 13:
        os._exit(1)
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number // 2, os.getpid()


def visible_gpus(_number: int) -> str | None:
    """The GPUs that the process sees."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def note_and_wait(file: str) -> None:
    """Write the id of this process to a file, and wait."""
    Path(file).write_text(str(os.getpid()))
    time.sleep(600)


def by_item(outcomes) -> dict[int, Outcome]:
    return {outcome.item: outcome for outcome in outcomes}


def test_failures_are_outcomes_and_other_tasks_continue() -> None:
    for jobs in (1, 2):
        found = by_item(run_all(halve, [2, 3, 4], jobs))
        assert [found[n].result[0] for n in (2, 4)] == [1, 2]
        assert found[3].result is None and found[3].error == "ValueError: 3 is odd"
        inside = {found[n].result[1] for n in (2, 4)} == {os.getpid()}
        assert inside == (jobs == 1)


def test_a_process_that_dies_is_an_outcome() -> None:
    found = by_item(run_all(halve, [13, 2], jobs=2))
    assert found[13].result is None and "Process" in found[13].error


def test_workers_end_with_a_parent_that_is_killed(tmp_path) -> None:
    """Otherwise they would wait forever and keep their memory."""
    script = (
        "import sys\nfrom test_training_parallel import note_and_wait\n"
        "from occ_training.parallel import run_all\n"
        "if __name__ == '__main__':\n"
        "    list(run_all(note_and_wait, [sys.argv[1] + '/a', sys.argv[1] + '/b'], 2))\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    parent = subprocess.Popen([sys.executable, "-c", script, tmp_path], env=environment)
    until = time.monotonic() + 120
    try:
        while len(notes := [f for f in tmp_path.iterdir() if f.read_text()]) < 2:
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        parent.kill()
        parent.wait()
    workers = [int(note.read_text()) for note in notes]
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_without_ray_the_message_names_the_alternative(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match="--jobs"):
        list(run_all(halve, [2], ray_address="local"))


@pytest.fixture
def ray_environment() -> dict[str, str]:
    """Environment of a Ray cluster that only this test can use."""
    pytest.importorskip("ray")
    return {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@pytest.fixture
def cluster(ray_environment) -> Iterator[str]:
    """A Ray cluster in separate processes, started as an operator does."""
    port = 20_000 + os.getpid() % 20_000
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [f"--port={port}", "--num-cpus=2", "--num-gpus=2", "--include-dashboard=false"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ray_environment
    ) as head:
        assert head.stdout is not None
        started = any("--block" in line for line in iter(head.stdout.readline, ""))
        assert started, "the head ended at once"
        try:
            yield f"127.0.0.1:{port}"
        finally:
            head.terminate()  # ends its children too
            head.communicate(timeout=60)


def outcomes(address: str, numbers: list[int], environment: dict[str, str]) -> dict[int, Outcome]:
    """Outcomes in a separate process, because Ray keeps its settings until the process ends."""
    command = [sys.executable, __file__, address, *map(str, numbers)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert run.returncode == 0, run.stderr
    rows = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("[")]
    return {item: Outcome(item, result, error) for item, result, error in rows}


@pytest.mark.slow
def test_tasks_run_on_a_running_cluster(cluster, ray_environment) -> None:
    found = outcomes(cluster, [2, 3, 4, 6], ray_environment)
    assert [found[n].result[0] for n in (2, 4, 6)] == [1, 2, 3]
    assert found[3].error == "ValueError: 3 is odd"


@pytest.mark.slow
def test_each_call_takes_the_requested_gpus_of_the_cluster(cluster, ray_environment) -> None:
    for gpus, seen in (("1", [{"0"}, {"1"}, {"0", "1"}]), ("0", [{""}, {None}])):
        command = [sys.executable, __file__, cluster, "1", "2"]
        run = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=120,
            env={**ray_environment, "GPUS_PER_CALL": gpus},
        )
        assert run.returncode == 0, run.stderr
        rows = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("[")]
        assert {result for _, result, _ in rows} in seen


@pytest.mark.slow
def test_a_local_cluster_is_started_and_stopped(ray_environment) -> None:
    found = outcomes("local", [2, 3, 13], ray_environment)
    assert found[2].result[0] == 1
    assert found[3].error == "ValueError: 3 is odd"
    assert found[13].result is None and found[13].error, "its worker died, also in retries"


def test_a_wrong_address_is_an_error() -> None:
    pytest.importorskip("ray")
    with pytest.raises(WorkError, match="no Ray cluster"):
        list(run_all(halve, [2], ray_address="127.0.0.1:1"))


if __name__ == "__main__":
    numbers, gpus = [int(word) for word in sys.argv[2:]], os.environ.get("GPUS_PER_CALL")
    function = halve if gpus is None else visible_gpus
    for one in run_all(function, numbers, ray_address=sys.argv[1], gpus=int(gpus or 0)):
        print(json.dumps([one.item, one.result, one.error]), flush=True)
