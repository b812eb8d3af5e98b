"""Strict loading of released checkpoints: a missing or unexpected key is an error.

A file either fits completely or is refused with everything that is wrong with it; nothing is
loaded half. Pickles are read with ``weights_only=True``: a file that would run code is refused.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from occ_perception.atomic import OutputError, atomic_path, refuse_existing
from occ_perception.errors import OccError, git_lfs_advice
from occ_perception.models.card import ModelCard
from occ_perception.models.checkpoint_keys import checkpoint_key, current_key
from occ_perception.models.network import Network
from occ_perception.models.zoo import MODELS

# In order of preference: averaged weights are the ones that published figures belong to.
_WRAPPERS = ("ema_state_dict", "state_dict", "model")
# A zip file; of PyTorch before 1.6 a pickle.
_BEGINNINGS = (b"PK\x03\x04", b"\x80")
_GRID_KEYS = ("view_transformer.dx", "view_transformer.bx", "view_transformer.nx")
_GRID_TOLERANCE = 1e-3
_SHOWN_PROBLEMS = 5
# A counter of training steps that no network reads; files from before PyTorch 0.4.1 and from some
# exporters lack it.
_OPTIONAL = ".num_batches_tracked"


@dataclass(frozen=True)
class KeyReport:
    """What became of every key of a file, and of every tensor of the network.

    Attributes:
        loaded: our names of the tensors that got a value.
        renamed: checkpoint key -> our name, where they differ.
        ignored: checkpoint key -> why the network does not need it.
        missing: checkpoint keys the network needs and the file lacks.
        unexpected: keys of the file that no tensor of the network has.
        wrong_shape: checkpoint key -> (shape in the file, shape in the network).
        wrong_grid: checkpoint key -> (value in the file, value of the network's grid).
        untied: checkpoint key -> name of the same tensor that has other values in the file.
        not_finite: checkpoint key -> number of its values that are NaN or infinite.
    """

    loaded: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong_shape: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    wrong_grid: Mapping[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    untied: Mapping[str, str] = field(default_factory=dict)
    not_finite: Mapping[str, int] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """One line per thing that forbids loading."""
        lines = [f"missing: {key}" for key in self.missing]
        lines += [f"unexpected: {key}" for key in self.unexpected]
        lines += [
            f"wrong shape: {key} is {got}, the network has {wanted}"
            for key, (got, wanted) in self.wrong_shape.items()
        ]
        lines += [
            f"wrong grid: {key} is {got}, the network's grid gives {wanted}"
            for key, (got, wanted) in self.wrong_grid.items()
        ]
        lines += [
            f"different values: {key} and {other} are one tensor of the network"
            for key, other in self.untied.items()
        ]
        return lines + self.not_finite_lines

    @property
    def not_finite_lines(self) -> list[str]:
        """One line per tensor with values that are no numbers."""
        return [
            f"not finite: {key} has {count} values that are NaN or infinite; did its training "
            "diverge?"
            for key, count in self.not_finite.items()
        ]


class CheckpointError(OccError):
    """A file that cannot be loaded; ``report`` is there when its keys could be read."""

    def __init__(self, message: str, report: KeyReport | None = None) -> None:
        super().__init__(message)
        self.report = report


def load_checkpoint(net: Network, card: ModelCard, path: str | Path) -> KeyReport:
    """Fill the network from a ``.pth`` or ``.safetensors`` file.

    Args:
        net: built from ``card`` at its released size.
        card: names the tensors of the file.
        path: the file; dictionaries wrapped in ``state_dict`` or ``ema_state_dict`` and prefixes
            of parallel wrappers are unwrapped, names from before a renaming are made current.

    Raises:
        CheckpointError: there is no such file, or it cannot be read safely, or does not fit; the
            message lists everything that is wrong, and the network is unchanged.
    """
    tensors, report = _fitting_tensors(net, card, Path(path))
    own = net.state_dict()
    with torch.no_grad():
        for our_key in report.loaded:
            own[our_key].copy_(tensors[checkpoint_key(our_key, card.names)])
    return report


def convert_checkpoint(card: ModelCard, source: str | Path, target: str | Path) -> KeyReport:
    """Write a checkpoint of ``card`` as safetensors: checkpoint keys, no wrappers.

    Args:
        card: the model the file belongs to.
        source: ``.pth`` or ``.safetensors`` file.
        target: file to write; it appears complete or not at all.

    Raises:
        CheckpointError: as :func:`load_checkpoint`; nothing is written.
        OutputError: ``target`` exists, is not called ``.safetensors``, or cannot be written.
    """
    from safetensors.torch import save_file

    source, target = Path(source), Path(target)
    if target.suffix != ".safetensors":
        raise OutputError(f"{target}: expected a name ending in .safetensors")
    refuse_existing(target)
    tensors, report = _fitting_tensors(card.build(), card, source)
    # Copies, because tied tensors share memory, which the format cannot express.
    copies = {key: tensor.clone().contiguous() for key, tensor in tensors.items()}
    with atomic_path(target) as unfinished:
        save_file(copies, unfinished, metadata={"format": "pt", "model": card.name})
    return report


def checkpoint_report(card: ModelCard, path: str | Path) -> KeyReport:
    """What would become of every key of a file; loads nothing.

    Raises:
        CheckpointError: there is no such file, or it cannot be read safely.
    """
    return match_keys(card.build(), card, _named_tensors(Path(path)))


def models_of(path: str | Path) -> list[str]:
    """Names of the models of the zoo whose keys and shapes a file has; no weights are loaded.

    Raises:
        CheckpointError: there is no such file, or it cannot be read safely.
    """
    return _owners(_named_tensors(Path(path)))


def _fitting_tensors(
    net: Network, card: ModelCard, path: Path
) -> tuple[dict[str, Tensor], KeyReport]:
    """The file's tensors under checkpoint keys, all of them accounted for."""
    tensors = _named_tensors(path)
    report = match_keys(net, card, tensors)
    if report.problems:
        raise CheckpointError(_misfit(card, path, report, tensors), report)
    return tensors, report


def _misfit(card: ModelCard, path: Path, report: KeyReport, tensors: Mapping[str, Tensor]) -> str:
    """What is wrong with a file that does not fit; one of another model is named as that."""
    is_another = report.missing or report.unexpected or report.wrong_shape or report.wrong_grid
    if is_another and (owners := [name for name in _owners(tensors) if name != card.name]):
        return (
            f"{path} does not fit model {card.name}: these are the keys of {' or '.join(owners)}. "
            f"Choose that model, or a checkpoint of {card.config_stem}"
        )
    shown, problems = report.problems[:_SHOWN_PROBLEMS], report.problems
    rest = f"; ... (`occ weights check {path} --model {card.name}` lists all)"
    return (
        f"{path} does not fit model {card.name} ({len(problems)} problems): {'; '.join(shown)}"
        + (rest if len(problems) > len(shown) else "")
        + f". Is it a checkpoint of {card.config_stem}?"
    )


def _owners(tensors: Mapping[str, Tensor]) -> list[str]:
    """The models of the zoo that a file fits."""
    shapes = {k: v if k in _GRID_KEYS else v.to("meta") for k, v in tensors.items()}
    owners = []
    for card in MODELS.values():
        with torch.device("meta"):  # names and shapes suffice
            net = card.build()
        if not match_keys(net, card, shapes).problems:
            owners.append(card.name)
    return owners


def _named_tensors(path: Path) -> dict[str, Tensor]:
    """The file's tensors under current checkpoint keys."""
    tensors = read_tensors(path)
    spellings: dict[str, list[str]] = {}
    for key in tensors:
        spellings.setdefault(current_key(key), []).append(key)
    twice = [" and ".join(keys) for keys in spellings.values() if len(keys) > 1]
    if twice:
        raise CheckpointError(
            f"{path} has two tensors for one name, {len(twice)} times: {'; '.join(twice[:3])}"
            + ("; ..." if len(twice) > 3 else "")
            + ". It is unclear which set of weights is meant; save the wanted one alone"
        )
    return {name: tensors[key] for name, (key,) in spellings.items()}


def match_keys(net: Network, card: ModelCard, tensors: Mapping[str, Tensor]) -> KeyReport:
    """Compare a file's tensors with the network's, changing neither.

    Args:
        net: the network.
        card: names the tensors.
        tensors: the file's content under unwrapped checkpoint keys (meta tensors suffice for
            everything but the checks of values: grid, tensors with two names, finite numbers).
    """
    wanted = {checkpoint_key(key, card.names): key for key in net.state_dict()}
    own = net.state_dict()
    shapes = {
        key: (tuple(tensors[key].shape), tuple(own[ours].shape))
        for key, ours in wanted.items()
        if key in tensors and tensors[key].shape != own[ours].shape
    }
    ignored, wrong_grid = _check_grid(net, tensors)
    ignored |= {key: why for key, why in card.unused_keys.items() if key in tensors}
    known = {*wanted, *_GRID_KEYS, *card.unused_keys}
    return KeyReport(
        loaded=tuple(ours for key, ours in wanted.items() if key in tensors and key not in shapes),
        renamed={key: ours for key, ours in wanted.items() if key != ours and key in tensors},
        ignored=ignored,
        missing=tuple(key for key in wanted if key not in tensors and not key.endswith(_OPTIONAL)),
        unexpected=tuple(key for key in tensors if key not in known),
        wrong_shape=shapes,
        wrong_grid=wrong_grid,
        untied=_untied(net, card, tensors),
        not_finite=_not_finite({key: tensors[key] for key in wanted if key in tensors}),
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Named tensors of a checkpoint file, on the CPU, under the names in the file.

    Raises:
        CheckpointError: there is no such file, or it is no checkpoint, a damaged one, or one that
            would run code when read.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    with path.open("rb") as file:
        beginning = file.read(40)
    if advice := git_lfs_advice(beginning):
        raise CheckpointError(f"{path} is not a checkpoint: {advice}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if not beginning.startswith(_BEGINNINGS):
        raise CheckpointError(
            f"{path} is not a checkpoint file: it starts with {beginning!r}, expected the zip file "
            "or pickle that torch.save writes. A web page in place of the file means "
            "that the download went wrong"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows in as many ways as the format has parts
        # torch's own text is not passed on: it advises to read the file without the check.
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and forbidden:
            raise CheckpointError(
                f"{path} was refused: it holds more than tensors and plain values "
                f"({forbidden[1]}), and reading it could run code. Take the file from its "
                "publisher, or let whoever made it save the bare state_dict or a .safetensors file"
            ) from error
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({_short(error)}); was the download complete?"
        ) from error
    return _unwrapped(content, path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({_short(error)})"
        ) from error


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    """The dictionary of tensors inside what a training framework saved around it."""
    while isinstance(content, Mapping):
        inner = next((k for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        content = content[inner]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected named tensors")
    strangers = [str(k) for k, v in content.items() if not isinstance(v, Tensor)]
    if strangers or not content:
        raise CheckpointError(
            f"{path} holds no state_dict: among its entries are {strangers[:5]}, expected tensors "
            f"only, or a dictionary with one of {', '.join(_WRAPPERS)}"
        )
    return dict(content)


def _untied(net: Network, card: ModelCard, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of one tensor of the network under which a file has different values."""
    first: dict[int, str] = {}
    untied = {}
    for ours, parameter in net.named_parameters(remove_duplicate=False):
        key = checkpoint_key(ours, card.names)
        other = first.setdefault(id(parameter), key)
        if key == other or not {key, other} <= tensors.keys() or tensors[key].is_meta:
            continue
        if not torch.equal(tensors[key], tensors[other]):
            untied[key] = other
    return untied


def _not_finite(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Tensors with values that are NaN or infinite, and how many."""
    floating = {
        key: value
        for key, value in tensors.items()
        if value.is_floating_point() and not value.is_meta
    }
    counts = {key: int((~torch.isfinite(value)).sum()) for key, value in floating.items()}
    return {key: count for key, count in counts.items() if count}


def _check_grid(
    net: Network, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, str], dict[str, tuple[list[float], list[float]]]]:
    """The three vectors that tell on which grid a checkpoint was trained; no layer uses them."""
    grid = net.config.geometry.grid
    values = (
        list(grid.voxel_size),
        [low + size / 2 for low, size in zip(grid.lower, grid.voxel_size, strict=True)],
        [float(count) for count in grid.dims],
    )
    ignored, wrong = {}, {}
    for key, expected in zip(_GRID_KEYS, values, strict=True):
        if key not in tensors:
            continue
        got = [float(number) for number in tensors[key].flatten()]
        if len(got) == 3 and all(
            abs(a - b) < _GRID_TOLERANCE for a, b in zip(got, expected, strict=True)
        ):
            ignored[key] = "grid constant, equal to the network's grid"
        else:
            wrong[key] = (got, expected)
    return ignored, wrong


def _short(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):
        return "its pickle is damaged or holds more than tensors and plain values"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
