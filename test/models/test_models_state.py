"""State as a value: copies, flat form and back, refusal of what does not belong."""

from __future__ import annotations

import pytest
import torch

from occ_perception.models.state import (
    StateError,
    TemporalState,
    clone_state,
    detach_state,
    state_bytes,
    state_from_tensors,
    state_tensors,
    state_to,
)
from occ_perception.nets.temporal.concat_history import ConcatHistoryState


def state(batch=2):
    slots = torch.randn(batch, 5, 3, 4, 6)[:, :4]  # a view, as networks return it
    return TemporalState(history=ConcatHistoryState(slots, torch.eye(3).expand(batch, 3, 3)))


def test_flat_form_round_trips_bit_for_bit():
    original = state()
    flat = state_tensors(original)
    assert set(flat) == {"history.slots_BTYXC", "history.augmentation_B33"}
    back = state_from_tensors(state(), flat)
    assert isinstance(back.history, ConcatHistoryState)
    for a, b in zip(back.history, original.history, strict=True):
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()


def test_absent_parts_leave_no_tensors():
    assert state_tensors(TemporalState()) == {}
    assert state_from_tensors(TemporalState(), {}) == TemporalState()


def test_a_clone_shares_no_memory_and_drops_the_graph():
    original = TemporalState(
        history=ConcatHistoryState(
            torch.ones(1, 2, 1, 2, 2, requires_grad=True), torch.eye(3)[None]
        )
    )
    copy = clone_state(original)
    copy.history.slots_BTYXC.zero_()
    assert original.history.slots_BTYXC.sum() == 8
    assert not copy.history.slots_BTYXC.requires_grad
    assert not detach_state(original).history.slots_BTYXC.requires_grad
    assert state_to(original, "cpu").history.slots_BTYXC.requires_grad


def test_bytes_count_what_the_shapes_say():
    assert state_bytes(state(1)) == 4 * (4 * 3 * 4 * 6 + 9)


def test_another_models_state_is_refused_with_all_differences():
    flat = state_tensors(state(1))
    flat["flow.previous"] = torch.zeros(1)
    del flat["history.augmentation_B33"]
    with pytest.raises(StateError, match=r"missing history\.augmentation_B33") as caught:
        state_from_tensors(state(2), flat)
    assert "unexpected flow.previous" in str(caught.value)
    assert "shape (1, 4, 3, 4, 6), expected (2, 4, 3, 4, 6)" in str(caught.value)
