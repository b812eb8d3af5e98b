"""What a model costs in a stream: time, memory, arithmetic.

Measured is the steady state of :meth:`OccupancyStream.step`, from decoded images in host memory
to labels in host memory, on frames that are drawn beforehand.
"""

from __future__ import annotations

import platform
import resource
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any

import numpy as np
import torch
from torch import nn

from occ_perception import __version__
from occ_perception.errors import OptionError
from occ_perception.models.card import ModelCard
from occ_perception.models.state import state_bytes
from occ_perception.models.zoo import MODELS
from occ_perception.runtime.execution import Execution
from occ_perception.runtime.flops import multiply_accumulates
from occ_perception.runtime.random_frames import random_frames
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import LoadedModel

TIMED = "OccupancyStream.step: decoded images on the host to labels on the host"


def measure_stream(
    model: LoadedModel,
    execution: Execution,
    frames: int = 50,
    warm_up: int = 5,
    stages: bool = False,
) -> dict[str, Any]:
    """Run a model once on a drawn drive and report, see :class:`StreamBenchmark`."""
    return StreamBenchmark(model, frames, warm_up).measure(execution, stages)


class StreamBenchmark:
    """A model with what all measurements of it share: a drawn drive, counted arithmetic.

    Args:
        model: what to run, and where.
        frames: how many are measured.
        warm_up: how many run before them; the first ones load, tune and compile.

    Raises:
        OptionError: no frame to measure.
    """

    def __init__(self, model: LoadedModel, frames: int = 50, warm_up: int = 5) -> None:
        if frames < 1 or warm_up < 1:
            raise OptionError(f"at least one frame and one warm-up, got {frames} and {warm_up}")
        self._model, self._warm_up = model, warm_up
        self._drive = list(random_frames(model.card, warm_up + frames))
        self._arithmetic = multiply_accumulates(model.net)

    def measure(self, execution: Execution, stages: bool = False) -> dict[str, Any]:
        """Run the drive in a new stream and report, ready for JSON.

        Args:
            execution: how.
            stages: also time the network's parts. Waiting for each of them costs a GPU nothing
                (it keeps its own time), but a compiled or recorded network has no parts.

        Raises:
            OptionError: stages of a compiled or recorded network.
        """
        if stages and execution.mode in ("graph", "compile"):
            raise OptionError(
                f"execution {execution.mode} has no stages to time; leave one of the two out"
            )
        model, warm_up, drive = self._model, self._warm_up, self._drive
        device = model.device
        stream = OccupancyStream(model, execution=execution)
        begun = time.perf_counter()
        for frame in drive[:warm_up]:
            stream.step(frame)
        warm_up_s = time.perf_counter() - begun
        _forget_peak(device)
        timings, cpu_seconds = [], []
        with stage_times(model.net, device, stages) as parts:
            for frame in drive[warm_up:]:
                cpu_begun = time.process_time()
                timings.append(dict(stream.step(frame).timings_ms))
                cpu_seconds.append(time.process_time() - cpu_begun)
                parts.close_frame()
        network_s = float(np.median([t["network"] for t in timings])) / 1e3
        return {
            "model": model.card.name,
            "weights": model.weights_id,
            "date": date.today().isoformat(),
            "device": device_facts(device),
            "versions": versions(device),
            "precision": execution.precision,
            "execution": execution.mode,
            "timed": TIMED,
            "images": "{}x{}".format(*model.card.preprocessing.native_size),
            "frames": len(drive) - warm_up,
            "warm_up_frames": warm_up,
            "warm_up_seconds": round(warm_up_s, 2),
            "milliseconds": {s: percentiles([t[s] for t in timings]) for s in timings[0]},
            "stages_ms": {name: percentiles(values) for name, values in parts.by_stage.items()},
            "cpu_seconds_per_frame": round(float(np.median(cpu_seconds)), 4),
            "memory_mb": {**peak_memory_mb(device), "state": _megabytes(_state_bytes(stream))},
            "gmac": {name: round(macs / 1e9, 3) for name, macs in self._arithmetic.items()},
            "network_tflops": round(2 * self._arithmetic["total"] / network_s / 1e12, 3),
        }


def distinct_networks(names: Sequence[str] = ()) -> Iterator[ModelCard]:
    """Cards whose networks differ, of the named models or of the whole zoo: variants of one recipe
    differ in their weights alone.
    """
    seen = []
    for name in names or MODELS:
        card = MODELS[name]
        key = (card.config, card.preprocessing)
        if key not in seen:
            seen.append(key)
            yield card


class StageTimes:
    """Milliseconds of each part of a network, frame by frame.

    Attributes:
        by_stage: part -> one value per frame.
    """

    def __init__(self, device: torch.device) -> None:
        self.by_stage: dict[str, list[float]] = defaultdict(list)
        self._device = device
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[str, Any, Any]] = []

    def mark(self) -> Any:
        """Now, on the clock of the device."""
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def add(self, stage: str, begun: Any) -> None:
        """A part has just been left."""
        self._marks.append((stage, begun, self.mark()))

    def close_frame(self) -> None:
        """Book what was marked since the last frame; the device has finished it."""
        sums: dict[str, float] = defaultdict(float)
        for stage, begun, ended in self._marks:
            if self._on_gpu:
                sums[stage] += begun.elapsed_time(ended)
            else:
                sums[stage] += 1e3 * (ended - begun)
        self._marks.clear()
        for stage, milliseconds in sums.items():
            self.by_stage[stage].append(milliseconds)


@contextmanager
def stage_times(net: nn.Module, device: torch.device, wanted: bool) -> Iterator[StageTimes]:
    """Times the parts of a network while the context is open, if they are wanted."""
    times = StageTimes(device)
    handles = []
    for name, part in net.named_children() if wanted else ():
        begun: list[Any] = []

        def enter(*_arguments: Any, begun: list[Any] = begun) -> None:
            begun.append(times.mark())

        def leave(*_arguments: Any, begun: list[Any] = begun, name: str = name) -> None:
            times.add(name, begun.pop())

        handles += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    try:
        yield times
    finally:
        for handle in handles:
            handle.remove()


def percentiles(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """p50, p90, p99 and max."""
    p50, p90, p99 = np.percentile(values, (50, 90, 99))
    named = {"p50": p50, "p90": p90, "p99": p99, "max": max(values)}
    return {name: round(float(value), digits) for name, value in named.items()}


def device_facts(device: torch.device) -> dict[str, Any]:
    """What ran."""
    if device.type != "cuda":
        return {"name": "cpu", "machine": platform.machine(), "threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory_gb": round(properties.total_memory / 1e9, 1),
    }


def versions(device: torch.device) -> dict[str, str]:
    """Of what the figures depend on."""
    named = {
        "occ_perception": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.version()
        named |= {"cuda": str(torch.version.cuda), "cudnn": str(cudnn)}
    return named


def peak_memory_mb(device: torch.device) -> dict[str, float]:
    """Peaks so far: of the process since it began, of the GPU's allocator since warm-up."""
    process_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peaks = {"process_peak": _megabytes(process_bytes)}
    if device.type == "cuda":
        peaks["allocator_peak"] = _megabytes(torch.cuda.max_memory_allocated(device))
        peaks["allocator_reserved"] = _megabytes(torch.cuda.max_memory_reserved(device))
    return peaks


def compared(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Rows (what, first, second) of everything that two measurements both have."""
    rows: list[tuple[str, float, float]] = []

    def add(what: str, a: float | None, b: float | None) -> None:
        if a is not None and b is not None:
            rows.append((what, a, b))

    for group, unit in (("milliseconds", "ms"), ("stages_ms", "ms")):
        for stage in first[group]:
            for rank in ("p50", "p99"):
                values = [m[group].get(stage, {}).get(rank) for m in (first, second)]
                add(f"{stage} {rank}, {unit}", values[0], values[1])
    for kind in first["memory_mb"]:
        add(f"{kind}, MB", first["memory_mb"][kind], second["memory_mb"].get(kind))
    add("GMAC", first["gmac"]["total"], second["gmac"]["total"])
    add("TFLOP/s", first["network_tflops"], second["network_tflops"])
    return rows


def conditions(measured: Mapping[str, Any]) -> str:
    """On what and how, in one line."""
    device = measured["device"]
    threads = f", {device['threads']} threads" if "threads" in device else ""
    # Measurements of earlier versions say only whether the network was compiled.
    execution = measured.get("execution", "compile" if measured.get("compiled") else "eager")
    return (
        f"{measured['model']} {measured['precision']} {execution} on {device['name']}{threads}, "
        f"torch {measured['versions']['torch']}, {measured['date']}"
    )


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _state_bytes(stream: OccupancyStream) -> int:
    return state_bytes(stream.snapshot().state)


def _megabytes(count: float) -> float:
    return round(count / 1e6, 1)
