"""ONNX files: writing one with its card, and running it with ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from occ_perception import __version__
from occ_perception.atomic import OutputError, atomic_path, refuse_existing, write_whole
from occ_perception.errors import OccError, needed_for
from occ_perception.exporting.flat_step import (
    FLOW,
    LABELS,
    NEXT,
    STATE,
    SUMS,
    flat_step,
    step_inputs,
)
from occ_perception.models.inputs import NetInputs
from occ_perception.models.postprocess import Decoded
from occ_perception.models.state import TemporalState, state_from_tensors
from occ_perception.models.zoo import get_card
from occ_perception.runtime.execution import PreparedStep
from occ_perception.runtime.flops import network_without_data
from occ_perception.runtime.weight_files import file_checksum
from occ_perception.runtime.weights import LoadedModel

OPSET = 20
_CARD_VERSION = 1
_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


class ExportError(OccError):
    """A model cannot be exported, or a file is not an export."""


def write_onnx(model: LoadedModel, path: Path) -> dict[str, Any]:
    """Write ``NAME.onnx`` and its card ``NAME.json``; returns the card.

    Raises:
        OutputError: the name does not end in .onnx, or a file exists already.
        ExportError: an operation of the model has no form in ONNX.
        MissingPackageError: the packages of the extra ``export`` are not installed.
    """
    if path.suffix != ".onnx":
        raise OutputError(f"{path}: expected a name ending in .onnx")
    card_path = path.with_suffix(".json")
    for file in (path, card_path):
        refuse_existing(file)
    with needed_for("an export to ONNX"):
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    step = flat_step(model)
    try:
        program = torch.onnx.export(
            step.program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(step.inputs),
            output_names=list(step.outputs),
            verbose=False,
        )
    except Exception as error:  # the exporter has many
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise ExportError(f"{model.card.name} has no form in ONNX: {reason}") from error
    assert program is not None
    with atomic_path(path) as unfinished:
        program.save(str(unfinished), external_data=False)
    card = {
        "version": _CARD_VERSION,
        "occ_perception": __version__,
        "torch": torch.__version__,
        "opset": OPSET,
        "sha256": file_checksum(path),
        "model": model.card.name,
        "weights": model.weights_id,
        "licence": model.card.licence,
        "inputs": _ports(step.inputs),
        "outputs": _ports(step.outputs),
        "state": {
            NEXT + name.removeprefix(STATE): name for name in step.inputs if name.startswith(STATE)
        },
        "preprocessing": asdict(model.card.preprocessing),
        "cameras": list(model.card.cameras),
        "reference_camera": model.card.reference_camera,
        "history_spacing_s": model.card.history_spacing_s,
        "grid": asdict(model.card.grid),
        "class_names": list(model.card.labels.class_names),
        "empty_class": model.card.labels.empty_class,
    }
    write_whole(card_path, json.dumps(card, indent=1) + "\n")
    return card


def _ports(tensors: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Name, shape and type of each, for the card."""
    return [
        {
            "name": name,
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
        }
        for name, tensor in tensors.items()
    ]


class OnnxModel:
    """An exported file that is ready to run.

    Args:
        path: written by :func:`write_onnx`, with its card beside it.
        providers: of ONNX Runtime, in order of preference; None = TensorRT, CUDA, CPU, as far as
            they are installed.

    Attributes:
        loaded: the model, with a network without weights.
        step: for :class:`~occ_perception.runtime.stream.OccupancyStream`.

    Raises:
        ExportError: the file or its card is missing, changed, or of another version.
        MissingPackageError: ONNX Runtime is not installed.
    """

    def __init__(self, path: str | Path, providers: Sequence[str] | None = None) -> None:
        path = Path(path).expanduser()
        self.facts = _read_card(path)
        with needed_for("an exported model"):
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        there = onnxruntime.get_available_providers()
        wanted = list(providers or [name for name in _PROVIDERS if name in there])
        self._session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
        self.provider: str = self._session.get_providers()[0]
        self._inputs = {port.name for port in self._session.get_inputs()}
        self._outputs = [port.name for port in self._session.get_outputs()]
        card = get_card(self.facts["model"]).with_cameras(self.facts["cameras"])
        net = network_without_data(card)
        self.loaded = LoadedModel(card, net, torch.device("cpu"), self.facts["weights"])
        self.step = PreparedStep(self._run, reuses_memory=False)

    def __str__(self) -> str:
        return f"onnx, {self.provider.removesuffix('ExecutionProvider')}"

    def _run(self, inputs: NetInputs, state: TemporalState) -> tuple[Decoded, TemporalState]:
        feed = {
            name: tensor.float().numpy() if tensor.dtype == torch.float64 else tensor.numpy()
            for name, tensor in step_inputs(inputs, state).items()
            if name in self._inputs
        }
        values: list[np.ndarray[Any, Any]] = self._session.run(self._outputs, feed)
        named = {
            name: torch.from_numpy(value) for name, value in zip(self._outputs, values, strict=True)
        }
        following = {
            name.removeprefix(NEXT): tensor
            for name, tensor in named.items()
            if name.startswith(NEXT)
        }
        decoded = Decoded(named[LABELS], named.get(FLOW), named[SUMS])
        return decoded, state_from_tensors(state, following)


def _read_card(path: Path) -> dict[str, Any]:
    card_path = path.with_suffix(".json")
    for file in (path, card_path):
        if not file.is_file():
            raise ExportError(f"no file {file}; `occ models export` writes a model and its card")
    try:
        facts: dict[str, Any] = json.loads(card_path.read_text())
        version, checksum = facts["version"], facts["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{card_path} is not the card of an exported model: {error}") from error
    if version != _CARD_VERSION:
        raise ExportError(f"{card_path} has version {version}, this program reads {_CARD_VERSION}")
    if file_checksum(path) != checksum:
        raise ExportError(f"{path} is not the file of {card_path}; export the model again")
    return facts
