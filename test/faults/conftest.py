"""Fixtures of real processes, and the table of faults that a run can write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_table import FaultTable
from ros_fixtures import (  # noqa: F401
    Launch,
    child_environment,
    environment_without_tf,
    launch,
    ros_context,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--fault-table FILE``: write what was seen as Markdown."""
    parser.addoption("--fault-table", type=Path, help="write the table of faults to this file")


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Iterator[FaultTable]:
    """Collects what every fault did."""
    collected = FaultTable()
    yield collected
    path = request.config.getoption("--fault-table", None)
    if path is not None:
        collected.write(path)


@pytest.fixture
def bench(launch: Launch, ros_context: None, tmp_path: Path) -> Iterator[Callable[..., object]]:  # noqa: F811
    """Makes benches; the node of each must end well."""
    assert ros_context is None
    from fault_bench import FaultBench

    made = []

    def make(**arguments: object) -> FaultBench:
        made.append(FaultBench(launch, tmp_path, **arguments))
        return made[-1]

    yield make
    for one in made:
        assert one.close() == 0, one.process.output()
