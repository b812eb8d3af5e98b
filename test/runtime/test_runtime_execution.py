"""Number formats: what may be rounded is, what may not is not, and streams stay float32."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from small_models import small_model
from small_streams import SMALL_MODEL, drive, small_card, surround_rig

from occ_perception.errors import OptionError
from occ_perception.models.state import state_tensors
from occ_perception.models.zoo import MODELS, get_card
from occ_perception.runtime.execution import Execution, half_parts, prepared_step
from occ_perception.runtime.flops import network_without_data
from occ_perception.runtime.random_frames import random_frames
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import LoadedModel, load_model

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, SMALL_MODEL, small_card(rename=SMALL_MODEL))
        return load_model(SMALL_MODEL, random_seed=1)


@pytest.fixture(scope="module")
def frames(model: LoadedModel):
    return drive((0.0, 0.5, 1.0), surround_rig(model.card.cameras))


def streamed(model: LoadedModel, frames, execution: Execution | None):
    stream = OccupancyStream(model, execution=execution)
    labels = [stream.step(frame).labels for frame in frames]
    return np.stack(labels), stream.snapshot().state


def test_unknown_precisions_are_refused() -> None:
    with pytest.raises(OptionError, match="one of fp32, tf32, fp16, bf16, got 'int8'"):
        Execution(precision="int8")


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_a_cpu_has_no_matrix_units_to_round_with(model, frames, precision: str) -> None:
    labels, state = streamed(model, frames, Execution(precision))
    expected, expected_state = streamed(model, frames, None)
    assert np.array_equal(labels, expected)
    for name, tensor in state_tensors(expected_state).items():
        assert torch.equal(state_tensors(state)[name], tensor)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_changes_little_and_remembers_in_float32(model, frames, precision: str):
    labels, state = streamed(model, frames, Execution(precision))
    expected, expected_state = streamed(model, frames, None)
    assert 0.8 < (labels == expected).mean() < 1.0
    for name, tensor in state_tensors(expected_state).items():
        got = state_tensors(state)[name]
        assert got.dtype == tensor.dtype
        error = (got - tensor).norm() / tensor.norm()
        assert error < 0.05, name


def test_only_convolutional_parts_see_half_precision(model, frames) -> None:
    """The lift places pixels in the grid: its inputs and outputs are float32."""
    seen: dict[str, set[torch.dtype]] = {}
    convolutions = {
        name: part
        for name, part in model.net.named_modules()
        if isinstance(part, torch.nn.Conv2d) and name.split(".")[0] in ("image", "encoder")
    }
    watched = {"lift": model.net.lift, "temporal": model.net.temporal, **convolutions}
    handles = [
        part.register_forward_hook(
            lambda _part, _inputs, output, name=name: seen.setdefault(name, set()).update(
                tensor.dtype for tensor in torch.utils._pytree.tree_leaves(output)
            )
        )
        for name, part in watched.items()
    ]
    streamed(model, frames[:1], Execution("bf16"))
    for handle in handles:
        handle.remove()
    assert seen["lift"] == seen["temporal"] == {torch.float32}
    assert len(convolutions) > 50
    assert all(seen[name] == {torch.bfloat16} for name in convolutions)


HALF = {"image", "depth", "encoder", "head"}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("alocc_2d_mini", HALF | {"height"}),
        ("alocc_2d", HALF | {"pre", "height"}),
        ("alocc_3d", HALF | {"pre"}),
        ("alocc_3d_depth_internimage_t", HALF | {"pre"}),
        ("alocc_3d_depth_swin_b", HALF | {"pre"}),
        ("alocc_flow_3d", HALF | {"pre"}),
        ("alocc_2d_gf", HALF | {"pre", "height"}),
        ("alocc_3d_gf", HALF | {"pre"}),
        ("bevdetocc_sf", HALF | {"pre"}),
        ("bevdetocc_gf", HALF | {"pre"}),
        ("fbocc", HALF),
        ("fbocc_gf", HALF),
        ("causal_bevdetocc", HALF | {"pre"}),
        ("causal_alocc_3d_16f", HALF | {"pre"}),
        ("sparseocc", {"image"}),
        ("alocc_town", HALF | {"height", "flow"}),
    ],
)
def test_parts_that_may_run_in_half_precision_say_so(name: str, parts: set[str]) -> None:
    assert set(half_parts(network_without_data(get_card(name)))) == parts


@pytest.mark.parametrize("name", ["alocc_2d_mini", "alocc_3d_gf", "sparseocc"])
def test_a_state_is_of_one_sort_from_the_first_frame_on(name: str) -> None:
    """Else a compiled network is compiled anew at the second frame, and at the third."""

    def sorts(stream: OccupancyStream) -> dict[str, tuple]:
        tensors = state_tensors(stream.snapshot().state)
        return {
            name: (t.is_inference(), t.stride(), t.untyped_storage().nbytes() // t.element_size())
            for name, t in tensors.items()
        }

    model = small_model(name)
    stream = OccupancyStream(model)
    first = sorts(stream)
    for frame in random_frames(model.card, 2):
        stream.step(frame)
        assert sorts(stream) == first


def test_the_shared_network_is_not_changed(model, frames) -> None:
    before, _ = streamed(model, frames, None)
    prepared_step(model.net, Execution("bf16"))
    streamed(model, frames[:1], Execution("bf16"))
    after, _ = streamed(model, frames, None)
    assert np.array_equal(before, after)


@pytest.fixture(params=[False, True])
def preset(request: pytest.FixtureRequest) -> Iterator[bool]:
    """What the process has chosen before: one thing for products, another for convolutions."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32, convolutions.allow_tf32 = request.param, not request.param
    yield request.param
    products.allow_tf32, convolutions.allow_tf32 = before


def test_the_processs_own_settings_come_back(preset: bool) -> None:
    inside = []

    class Probe(torch.nn.Module):
        def forward(self, inputs, state):
            inside.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
            return inputs, state

    for precision in ("fp32", "tf32"):
        prepared_step(Probe(), Execution(precision))(None, None)
    assert inside == [(False, False), (True, True)]
    assert torch.backends.cuda.matmul.allow_tf32 is preset
    assert torch.backends.cudnn.allow_tf32 is not preset


@pytest.mark.slow
def test_a_compiled_network_computes_the_same(model, frames) -> None:
    labels, _ = streamed(model, frames, Execution(mode="compile"))
    expected, _ = streamed(model, frames, None)
    assert (labels == expected).mean() > 0.999
