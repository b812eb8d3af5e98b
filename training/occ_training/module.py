"""The training step: network, temporal state of every slot, loss terms."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from occ_perception.errors import OptionError
from occ_perception.models.card import ModelCard
from occ_perception.models.inputs import Outputs
from occ_perception.models.network import Network
from occ_perception.runtime.execution import HALF, run_in_half
from occ_training.data.sample import Batch
from occ_training.losses.terms import (
    ImageMasks,
    SupervisedStep,
    full_precision,
    reads_all_logits,
)
from occ_training.recipe import TrainingRecipe
from occ_training.sampler import seed_of
from occ_training.slots import Slots

PRECISIONS = ("fp32", *HALF)


class OccupancyModule(pl.LightningModule):
    """A network in training.

    Args:
        net: built from ``card``.
        card: model to train.
        recipe: of the run.

    Attributes:
        slots: temporal state of this process's slots.
    """

    def __init__(self, net: Network, card: ModelCard, recipe: TrainingRecipe) -> None:
        super().__init__()
        self.net = net.train()
        self.card = card
        self.recipe = recipe
        self.slots = Slots(net)
        recompute(net, recipe.recomputed)
        compute_in(net, recipe.precision)
        embed = net.image_embed
        if embed is not None and not any(isinstance(t, ImageMasks) for t in recipe.terms):
            embed.requires_grad_(False)  # unused; data parallel training would wait for it

    def on_train_start(self) -> None:
        """Freeze the statistics of batch norms if the recipe does."""
        if self.recipe.frozen_norms:
            freeze_norms(self.net)

    def training_step(self, batch: Batch, _batch_number: int) -> Tensor:
        """Loss of one step; updates the temporal state."""
        # Seeds dropout by step, so that a resumed run draws the same.
        torch.manual_seed(seed_of(self.recipe.seed, self.global_step, self.global_rank))
        losses = self.losses(batch, self(batch))
        total = torch.stack(list(losses.values())).sum()
        for name, value in losses.items():
            self.log(f"loss/{name}", value.detach(), batch_size=len(batch), sync_dist=True)
        self.log("loss", total.detach(), batch_size=len(batch), prog_bar=True, sync_dist=True)
        return total

    def losses(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        """Every weighted loss of a step by name, in float32.

        Raises:
            ValueError: two terms return a loss of the same name.
        """
        losses: dict[str, Tensor] = {}
        with torch.autocast(self.device.type, enabled=False):
            step = SupervisedStep(
                net=self.net,
                card=self.card,
                batch=batch,
                outputs=full_precision(outputs),
                seed=seed_of(self.recipe.seed, self.global_step),
            )
            for term in self.recipe.terms:
                values = term(step)
                twice = values.keys() & losses.keys()
                if twice:
                    raise ValueError(
                        f"two terms of {self.recipe.name} return the loss {', '.join(twice)}; "
                        "names must be unique"
                    )
                losses |= values
        return losses

    def forward(self, batch: Batch) -> Outputs:
        """Outputs on the next frame of each slot, as the recipe says for this step."""
        step, fading = self.global_step, self.recipe.motion_fading
        # Parts that may compute in half precision switch autocast on themselves.
        with torch.autocast(self.device.type, enabled=False):
            return self.slots.forward(
                batch,
                depth_rate=measured_depth_rate(self.card, self.recipe, step),
                motion_rate=fading.rate(step) if fading else 0.0,
                history=step >= self.recipe.history_from,
                dense=reads_all_logits(self.recipe.terms),
            )

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser, and its learning rate per step."""
        assert isinstance(self.net, nn.Module)
        chosen = self.recipe.optimiser
        optimiser = chosen.build(self.net)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, chosen.schedule.factor)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def measured_depth_rate(card: ModelCard, recipe: TrainingRecipe, step: int) -> float | None:
    """Share of the measured depth in the lifting at this step; None = no measured depth.

    Models with a depth sensor always use it. Those that fuse depth over time use it in the fusion,
    and mix it into the prediction as the others do.
    """
    fading = recipe.depth_fading.rate(step) if recipe.depth_fading else 0.0
    if card.measures_depth:
        return fading if card.config.fuses_depth else 1.0
    return fading if fading > 0.0 else None


def recompute(net: nn.Module, names: tuple[str, ...]) -> None:
    """Recompute sub-modules in the backward pass instead of storing activations (1604.06174).

    Batch norms inside see every batch twice and update their running statistics twice, as in the
    reference code.

    Raises:
        OptionError: the network has no sub-module of one of these names.
    """
    modules = dict(net.named_modules())
    for name in names:
        if name not in modules:
            near = ", ".join(get_close_matches(name, modules) or dict(net.named_children()))
            raise OptionError(
                f"`recomputed` of the recipe names {name!r}, which the network does not have; "
                f"similar names are {near}. Correct the name, or leave it out"
            )
        module = modules[name]
        module.forward = _checkpointed(module.forward)


def compute_in(net: nn.Module, precision: str) -> None:
    """Run the parts that allow it in half precision; their outputs are float32.

    Args:
        net: the network, changed in place; its parameters stay float32.
        precision: ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        OptionError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise OptionError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision in HALF:
        run_in_half(net, HALF[precision])


def freeze_norms(net: nn.Module) -> None:
    """Put all batch norms into evaluation mode: they keep their statistics."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _checkpointed(forward: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run
