"""What a step of every model asks of a GPU, counted on a CPU at full size; nothing is timed.

    python benchmarks/device_audit.py [MODEL ...]

Each model runs two frames of a drawn drive on CUDA tensors without numbers (``test/gpu/audit.py``);
the second frame is counted. It needs g++ and no GPU. Results go to benchmarks/results/ as dated
Markdown and JSON, after each model; models that the file of that day has are not counted again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "test" / "gpu")]

import torch  # noqa: E402
from audit import StreamAudit, audit_stream  # noqa: E402
from fake_cuda import NoCompilerError  # noqa: E402

from occ_perception.models.zoo import MODELS  # noqa: E402
from occ_perception.runtime.benchmark import distinct_networks  # noqa: E402

COLUMNS = {
    "launches": "launches",
    "stops": "stops inside",
    "uploads": "copies up",
    "waits": "waits outside",
    "gb": "GB moved",
    "gathered_gb": "GB gathered",
    "live_mb": "live MB",
}


def row(step: StreamAudit) -> dict[str, Any]:
    """The counts of one step, ready for JSON."""
    network, around = step.network, step.around
    uploads = sum(n for place, n in around.copies.items() if place.startswith("host to device"))
    waits = sum(n for place, n in around.copies.items() if ", waits" in place)
    return {
        "launches": network.launches.total() + around.launches.total(),
        "stops": network.stops.total(),
        "uploads": uploads,
        "waits": waits + around.reads.total(),
        "gb": round((network.bytes_moved + around.bytes_moved) / 1e9, 2),
        "gathered_gb": round((network.bytes_gathered + around.bytes_gathered) / 1e9, 2),
        "live_mb": round(step.live_bytes / 1e6, 1),
        "launches_by_part": dict(network.launches),
        "places": {**network.stops, **around.stops},
    }


def page(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown."""
    lines = [
        f"# What a step asks of a GPU, counted on a CPU, {date.today().isoformat()}\n",
        "Not measured on a GPU: `benchmarks/device_audit.py` counts the second step of a stream at "
        f"full size, in fp32, on tensors without numbers (torch {torch.__version__}, "
        f"{'with' if find_spec('triton') else 'without'} triton and so kernels of our own).\n",
        "- launches: operations on the device, views and copies between host and device left out; "
        "an operation may be several kernels",
        "- stops inside: copies, reads by the host and factorisations in the network's forward",
        "- copies up: from host to device around the network; none waits",
        "- waits outside: results that come down",
        "- GB moved: every operand read and every result written once; gathered: rows that are "
        "looked up",
        "- live MB: most memory of all tensors at once, weights included; work space of libraries "
        "is not in it",
        "",
        "| model | " + " | ".join(COLUMNS.values()) + " |",
        "| --- |" + " ---: |" * len(COLUMNS),
    ]
    lines += [
        f"| {name} | " + " | ".join(str(counts[key]) for key in COLUMNS) + " |"
        for name, counts in rows.items()
    ]
    return "\n".join(lines) + "\n"


def write_results(rows: Mapping[str, Mapping[str, Any]], target: Path) -> None:
    """Write the page and its JSON."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_suffix(".json").write_text(
        json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n"
    )
    target.with_suffix(".md").write_text(page(rows))


def main(arguments: Sequence[str] | None = None) -> int:
    """Count and write; returns 2 if a name is wrong or there is no compiler."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help="all that differ, if none")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks/results")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.models if name not in MODELS]
    if unknown:
        print(f"no model {', '.join(unknown)}; there are {', '.join(MODELS)}", file=sys.stderr)
        return 2
    target = options.results / f"{date.today().isoformat()}-device-audit"
    stored = target.with_suffix(".json")
    rows = json.loads(stored.read_text())["rows"] if stored.is_file() else {}
    for card in distinct_networks(options.models):
        if card.name in rows:
            continue
        try:
            rows[card.name] = row(audit_stream(card)[-1])
        except NoCompilerError as reason:
            print(reason, file=sys.stderr)
            return 2
        write_results(rows, target)
        print(card.name, {key: rows[card.name][key] for key in COLUMNS}, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
