"""Networks with weights in them, ready to run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from occ_perception.errors import OptionError
from occ_perception.models.card import ModelCard
from occ_perception.models.checkpoint import CheckpointError, KeyReport, load_checkpoint
from occ_perception.models.network import Network
from occ_perception.models.random_weights import fill_random_weights
from occ_perception.models.zoo import get_card
from occ_perception.runtime.folding import fold
from occ_perception.runtime.weight_files import (
    WeightsError,
    file_checksum,
    find_weights,
    verify_kept,
)

# Hex digits of a checksum that are shown: enough to tell one's checkpoints apart.
_SHOWN_DIGITS = 12


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network that can be run, and where its numbers come from.

    Attributes:
        card: what the model is.
        net: on ``device``, rewritten for running (see :mod:`occ_perception.runtime.folding`).
        device: where it runs.
        weights_id: first digits of the file's sha256, or ``random:SEED``.
        report: which keys of the checkpoint went where; None for random weights.
    """

    card: ModelCard
    net: Network
    device: torch.device
    weights_id: str
    report: KeyReport | None = None

    @property
    def label(self) -> str:
        """Name and weights, as messages and images carry them, and cameras it does without."""
        return self.label_without(())

    def label_without(self, masked: Collection[str]) -> str:
        """The label of a prediction without the images of some of the card's cameras."""
        absent = ", ".join((*self.card.absent_cameras, *masked))
        return f"{self.card.name}@{self.weights_id}" + (f" without {absent}" if absent else "")


def load_model(
    name: str,
    weights: Path | str | None = None,
    random_seed: int | None = None,
    device: torch.device | str = "cpu",
    cameras: Collection[str] | None = None,
) -> LoadedModel:
    """Build a model of the zoo and fill it.

    Args:
        name: of the model card.
        weights: checkpoint (.pth or .safetensors) with the checkpoint keys; the published
            file kept on this machine if neither this nor a seed is given.
        random_seed: weights from a seed instead; predictions then mean nothing.
        device: where to run, e.g. ``cuda:0``; ``auto`` is a GPU where there is one.
        cameras: those that there are, if not all of the model's; the card then says which are
            absent.

    Raises:
        ModelError: there is no such model, or none of its cameras is there.
        OptionError: two sources of weights are given, or the device is not there.
        WeightsError: there are no weights, or a kept file has changed.
        CheckpointError: there is no such file, or it does not fit; the message names every key.
    """
    card = get_card(name)
    if cameras is not None:
        card = card.with_cameras(cameras)
    if weights is not None and random_seed is not None:
        raise OptionError("give either weights or a seed for random weights, not both")
    kept = find_weights(card) if weights is None and random_seed is None else None
    if weights is None and random_seed is None and kept is None:
        fetch = f"`occ weights fetch {name}` gets {card.url}"
        source = fetch if card.url else f"none are published. {card.note}".rstrip(". ")
        raise WeightsError(
            f"no pretrained weights were given for {name}: {source}; your own go in as weights "
            "(--weights FILE). Without any, weights would be random and the output meaningless, "
            "which a seed asks for (--random-weights SEED)"
        )
    target = checked_device(device)
    net = card.build()
    report = None
    if random_seed is not None:
        fill_random_weights(net, card, suffix=f":{random_seed}")
        weights_id = f"random:{random_seed}"
    else:
        path = kept or Path(str(weights)).expanduser()
        if not path.is_file():
            raise CheckpointError(f"weights file {path} does not exist")
        checksum = file_checksum(path)
        if kept is not None and card.packaged is None:
            verify_kept(card, path, checksum)
        report = load_checkpoint(net, card, path)
        weights_id = checksum[:_SHOWN_DIGITS]
    net = net.eval().requires_grad_(False)
    fold(net, target)
    net = net.to(target)
    return LoadedModel(card, net, target, weights_id, report)


def checked_device(device: torch.device | str) -> torch.device:
    """The device, if torch can use it here; ``auto`` is a GPU where there is one.

    Raises:
        OptionError: torch does not know it, or the machine does not have it.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as problem:
        reason = str(problem).splitlines()[0]
        raise OptionError(f"device {str(device)!r} cannot be used: {reason}") from problem
    return target
