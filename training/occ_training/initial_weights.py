"""Initial weights from another network: matching tensors are loaded, the others are kept."""

from __future__ import annotations

from pathlib import Path

import torch

from occ_perception.models.card import ModelCard
from occ_perception.models.checkpoint import CheckpointError, match_keys, read_tensors
from occ_perception.models.checkpoint_keys import checkpoint_key, unwrapped_key
from occ_perception.models.network import Network
from occ_perception.models.zoo import MODELS, get_card
from occ_perception.runtime.weight_files import WeightsError, find_weights, verify_kept


def load_initial_weights(net: Network, card: ModelCard, path: Path) -> str:
    """Copy every tensor whose checkpoint key and shape match.

    Args:
        net: built from ``card``; its other tensors are left alone.
        card: defines the checkpoint keys.
        path: ``.pth`` or ``.safetensors`` file, of a detector or an earlier run; or the name of a
            model of the zoo, for the checkpoint that `occ weights fetch` stored.

    Returns:
        One line of text: how many tensors were loaded, and how many were not.

    Raises:
        WeightsError: there is no such file, that model's checkpoint is not on this machine, or the
            stored checkpoint has changed.
        CheckpointError: it cannot be read safely, no tensor matches, or one has values that are
            NaN or infinite.
    """
    if str(path) in MODELS and not path.exists():
        path = _kept_checkpoint(str(path))
    tensors = {unwrapped_key(key): value for key, value in read_tensors(path).items()}
    report = match_keys(net, card, tensors)
    if not report.loaded:
        raise CheckpointError(
            f"{path}: none of its {len(tensors)} tensors matches model {card.name}; "
            "is it a checkpoint of this family?",
            report,
        )
    if report.not_finite:
        raise CheckpointError(
            f"{path} cannot start a training:\n  " + "\n  ".join(report.not_finite_lines), report
        )
    own = net.state_dict()
    with torch.no_grad():
        for key in report.loaded:
            own[key].copy_(tensors[checkpoint_key(key, card.names)])
    return (
        f"{path}: {len(report.loaded)} of {len(own)} tensors loaded; {len(report.missing)} are not "
        f"in it, {len(report.wrong_shape)} have another shape"
    )


def _kept_checkpoint(model: str) -> Path:
    card = get_card(model)
    kept = find_weights(card)
    if kept is None:
        raise WeightsError(
            f"initial_weights: the checkpoint of {model} is not on this machine; "
            f"`occ weights fetch {model}` gets it, `--set initial_weights=null` starts without"
        )
    if card.packaged is None:
        verify_kept(card, kept)
    return kept
