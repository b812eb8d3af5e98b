"""Every network of the zoo: parameters, initialisation, and streams over three drawn frames."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from values import Named, digest, flat

INPUT_SIZE = (64, 96)
TIMES_S = (10.0, 10.5, 11.0)
# Factors that keep an untrained network away from constant features and saturated logits.
_SCALE = {"depth_net.context_conv.weight": 20.0, "alocc_head.mask_embed.4.weight": 0.1}

_FACTS = (
    *("name", "title", "config_stem", "preprocessing", "cameras", "absent_cameras"),
    *("reference_camera", "grid", "grid_frame", "history_spacing_s", "history_frames"),
    *("label_set", "class_scores", "excluded_class", "published", "protocol", "url", "sha256"),
    *("packaged", "licence", "backbone", "modality", "note", "names", "unused_keys"),
)
"""Public fields of a model card."""


def jobs() -> dict[str, Any]:
    """One job for each model."""
    from occ_perception.models.zoo import MODELS

    return {f"network/{name}": partial(_network, name) for name in MODELS}


def _small(card: Any) -> Any:
    """The card with images of 64x96 and columns of 1 m over 16 m x 8 m, otherwise unchanged."""
    from occ_perception.geometry import VoxelGrid

    full = card.config.geometry.grid
    sizes, dims = (1.0, 1.0, full.voxel_size[2]), (16, 8, full.dims[2])
    return card.resized(INPUT_SIZE, VoxelGrid((-8.0, -4.0, full.lower[2]), sizes, dims))


def _network(name: str, _scratch: Path) -> Named:
    import torch

    from occ_perception.models.checkpoint_keys import checkpoint_key
    from occ_perception.models.random_weights import fill_random_weights
    from occ_perception.models.zoo import get_card
    from occ_perception.runtime.folding import fold
    from occ_perception.runtime.weights import LoadedModel

    card = get_card(name)
    for field in _FACTS:
        yield from flat(getattr(card, field), f"card/{field}")
    twin, card = _is_twin(card), _small(card)
    torch.manual_seed(1)
    net = card.build()
    tensors = net.state_dict()
    yield "keys", [f"{key} {tuple(tensor.shape)}" for key, tensor in tensors.items()]
    yield "published_keys", [checkpoint_key(key, card.names) for key in tensors]
    yield from _by_part("initialised", net)
    fill_random_weights(net, card, suffix=":1", scale=_SCALE)
    net.requires_grad_(False)
    yield from _by_part("random", net)
    cpu = torch.device("cpu")
    model = LoadedModel(card, net, cpu, "random:1")
    if not twin:
        yield from _stream("plain", model, TIMES_S)
    fold(net, cpu)
    yield from _by_part("folded", net)
    yield from _stream("as_run", model, TIMES_S[:1] if twin else TIMES_S)


def _is_twin(card: Any) -> bool:
    """Whether an earlier model has the same network and inputs; one frame is enough for it."""
    from occ_perception.models.zoo import MODELS

    def inputs(of: Any) -> tuple[Any, ...]:
        return of.config, of.measures_depth, of.preprocessing, of.cameras

    earlier = next(other for other in MODELS.values() if inputs(other) == inputs(card))
    return bool(earlier.name != card.name)


def _by_part(title: str, net: Any) -> Named:
    parts: dict[str, dict[str, Any]] = {}
    for key, tensor in net.state_dict().items():
        parts.setdefault(key.partition(".")[0], {})[key] = tensor
    for part, tensors in parts.items():
        yield f"{title}/{part}", tensors


def _stream(title: str, model: Any, times_s: tuple[float, ...]) -> Named:
    from small_streams import drive, surround_rig

    from occ_perception.models.state import state_tensors
    from occ_perception.runtime.stream import OccupancyStream

    card = model.card
    seen: list[tuple[Any, Any]] = []
    hook = model.net.register_forward_hook(lambda _net, args, out: seen.append((args[0], out[0])))
    rig = surround_rig(card.cameras, lidar=card.grid_frame == "lidar")
    stream = OccupancyStream(model)
    for number, frame in enumerate(drive(times_s, rig, reference_camera=card.reference_camera)):
        prediction = stream.step(frame)
        inputs, outputs = seen.pop()
        where = f"{title}/frame{number}"
        for key, tensor in flat(inputs):
            yield f"{where}/inputs/{key}", tensor
        for key, tensor in flat(outputs):
            yield f"{where}/outputs/{key}", tensor
        for key, tensor in state_tensors(stream.snapshot().state).items():
            yield f"{where}/state/{key}", tensor
        yield from prediction_values(where, prediction)
    hook.remove()


def prediction_values(where: str, prediction: Any) -> Named:
    """All of a prediction except its timings."""
    yield f"{where}/labels", prediction.labels
    yield f"{where}/flow", prediction.flow
    facts = replace(prediction, timings_ms={}, flow=None)
    yield f"{where}/facts", [f"{key}={digest(value)}" for key, value in flat(facts)]
