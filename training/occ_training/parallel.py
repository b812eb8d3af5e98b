"""Independent tasks on local processes, or on a Ray cluster if an address is given.

Conversion, evaluation and rendering use this to spread over processors and machines. A task that
fails becomes an outcome with the reason; the others continue.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from occ_perception.errors import OccError, needed_for, sentence_for

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkError(OccError):
    """Tasks could not be distributed, or one failed; the message gives the reason."""


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """The outcome of one task.

    Attributes:
        item: its argument.
        result: what the function returned; None if it failed.
        error: why it failed; "" if it did not.
        is_defect: whether it failed for a reason that a user cannot fix.
    """

    item: Item
    result: Result | None
    error: str = ""
    is_defect: bool = False


def run_all(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int = 1,
    ray_address: str | None = None,
    gpus: int = 0,
) -> Iterator[Outcome[Item, Result]]:
    """Call ``function`` with every item; yield outcomes as they complete, in no fixed order.

    Args:
        function: defined at module level, so that another process can import it. On a cluster its
            package must be installed on every node, and paths in the items must be valid there.
        items: one call each; they and the results must be picklable.
        jobs: local processes; 1 runs in this process. Ignored with ``ray_address``.
        ray_address: of a running cluster (``auto`` finds the one this machine belongs to,
            ``ray://HOST:PORT`` connects from outside), or ``local`` to start one on this machine
            for the duration of the work. Each call takes one CPU of the cluster.
        gpus: GPUs per call on a cluster that has any; a call sees only its own.

    Raises:
        MissingPackageError: an address is given and Ray is not installed.
        WorkError: there is no cluster at the address.
    """
    if ray_address is not None:
        yield from _on_ray(function, items, ray_address, gpus)
    elif jobs <= 1 or len(items) <= 1:
        yield from (_attempt(function, item) for item in items)
    else:
        yield from _on_processes(function, items, min(jobs, len(items)))


def _attempt(function: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    try:
        return Outcome(item, function(item))
    except Exception as error:  # one task must not end the others; the reason is reported
        return _failed(item, error)


def _failed(item: Item, error: BaseException) -> Outcome[Item, Any]:
    sentence = sentence_for(error)
    return Outcome(item, None, sentence or f"{type(error).__name__}: {error}", sentence is None)


def _on_processes(
    function: Callable[[Item], Result], items: Sequence[Item], jobs: int
) -> Iterator[Outcome[Item, Result]]:
    # A forked child of a process with threads can hang on a lock that is never released.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_end_with_parent) as pool:
        pending = {pool.submit(_attempt, function, item): item for item in items}
        try:
            for future in as_completed(pending):
                error = future.exception()
                if error is None:
                    yield future.result()
                else:  # the process itself died
                    yield _failed(pending[future], error)
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End a worker whose parent was killed; it would wait forever and keep its memory."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, name="end with parent", daemon=True).start()


def _on_ray(
    function: Callable[[Item], Result], items: Sequence[Item], address: str, gpus: int
) -> Iterator[Outcome[Item, Result]]:
    with needed_for(f"--ray {address} (--jobs uses local processes)"):
        import ray
    _check_reachable(address)
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address == "local":
        options["include_dashboard"] = False
    ray.init(address=address, **options)
    try:
        needs = {"num_gpus": gpus} if ray.cluster_resources().get("GPU") else {}
        remote: Any = ray.remote(_attempt).options(**needs)
        pending = {remote.remote(function, item): item for item in items}
        while pending:
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            item = pending.pop(ready)
            try:
                yield ray.get(ready)
            except ray.exceptions.RayError as error:  # the worker died, and its retries with it
                yield _failed(item, error)
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Check the address first: Ray retries a wrong one for minutes, then ends the process."""
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise WorkError(
            f"no Ray cluster at {address} ({error}); give HOST:PORT of its head, "
            "ray://HOST:PORT, auto or local"
        ) from error
