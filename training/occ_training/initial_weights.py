"""Starting from weights of another network: what fits is taken, the rest stays as it is."""

from __future__ import annotations

from pathlib import Path

import torch

from occ_perception.models.checkpoint import CheckpointError, match_keys, read_tensors
from occ_perception.models.network import Network
from occ_perception.models.published_names import published_key, unwrapped_key
from occ_perception.models.zoo import ModelCard


def load_initial_weights(net: Network, card: ModelCard, path: Path) -> str:
    """Copy every tensor whose published name and shape fit.

    Args:
        net: built from ``card``; its other tensors are left alone.
        card: names the tensors.
        path: ``.pth`` or ``.safetensors`` file, of a detector or an earlier run.

    Returns:
        One line for people: how many tensors were taken, and what was not.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it cannot be read safely, or nothing in it fits.
    """
    tensors = {unwrapped_key(key): value for key, value in read_tensors(path).items()}
    report = match_keys(net, card, tensors)
    if not report.loaded:
        raise CheckpointError(
            f"{path}: none of its {len(tensors)} tensors fits model {card.name}; "
            "is it a checkpoint of this family?",
            report,
        )
    own = net.state_dict()
    with torch.no_grad():
        for key in report.loaded:
            own[key].copy_(tensors[published_key(key, card.names)])
    return (
        f"{path}: {len(report.loaded)} of {len(own)} tensors taken; {len(report.missing)} are not "
        f"in it, {len(report.wrong_shape)} have another shape"
    )
