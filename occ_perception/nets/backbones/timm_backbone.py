"""Any timm model as image backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class TimmBackboneConfig:
    """A timm model by name.

    Attributes:
        name: as timm knows it, e.g. ``mobilenetv3_small_100``.
        out_strides: strides of the returned maps, ascending.
        pretrained: whether timm fetches its released weights (needs a network).
    """

    name: str
    out_strides: tuple[int, ...] = (16, 32)
    pretrained: bool = False

    def build(self) -> TimmBackbone:
        """The module."""
        return TimmBackbone(self)


class TimmBackbone(nn.Module):
    """Image (n, 3, H, W) to one (n, C, H/s, W/s) map per requested stride, finest first.

    Raises:
        ValueError: the model has no map at a requested stride; the message lists those it has.
    """

    def __init__(self, config: TimmBackboneConfig) -> None:
        super().__init__()
        import timm  # only networks that use it pay for the import

        available = _strides(timm.create_model(config.name, features_only=True, pretrained=False))
        missing = [s for s in config.out_strides if s not in available]
        if missing:
            raise ValueError(
                f"backbone {config.name} has no features at stride {missing}; "
                f"it has {sorted(available)}, choose out_strides among them"
            )
        body: Any = timm.create_model(
            config.name,
            features_only=True,
            pretrained=config.pretrained,
            out_indices=[available[s] for s in config.out_strides],
        )
        self.body = body
        self.out_strides = config.out_strides
        self.out_channels = tuple(body.feature_info.channels())

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.body(images)
        # Some transformers return channels last; the channel count tells which axis it is.
        return tuple(
            m if m.shape[1] == c else m.permute(0, 3, 1, 2)
            for m, c in zip(maps, self.out_channels, strict=True)
        )

    def fine(self, images: Tensor) -> Tensor:
        """The finest of the requested maps alone."""
        return self.forward(images)[0]


def _strides(model: Any) -> dict[int, int]:
    """Output stride -> index of the last feature map that has it."""
    reductions = model.feature_info.reduction()
    return {stride: index for index, stride in enumerate(reductions)}
