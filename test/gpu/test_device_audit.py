"""What a step asks of a GPU, of one network per family, and that the audit sees what it should.

Launches and memory are ceilings, as counted: whoever needs fewer lowers them. Networks are the full
ones for one camera with small images and grids, so the counts are not those of a full-size step;
``benchmarks/device_audit.py`` counts those.
"""

from __future__ import annotations

import pytest
import torch
from audit import DeviceAudit, StepAudit, audit_stream, lines
from fake_cuda import DEVICE, NoCompilerError, fake_cuda, register_guard
from small_networks import small_card
from small_sparse import small_sparse_card

from occ_perception.models.card import ModelCard
from occ_perception.models.inputs import GridAugmentation
from occ_perception.models.zoo import get_card
from occ_perception.runtime.flops import network_without_data
from occ_perception.runtime.transfer import upload

# Launches in the network's forward, and megabytes on the device at once, parameters included.
CEILINGS = {
    "alocc_2d_mini": (858, 145.6),
    "alocc_3d": (1424, 305.4),
    "alocc_flow_3d": (2161, 305.9),
    "alocc_3d_gf": (1428, 301.7),
    "bevdetocc_sf": (1120, 233.6),
    "bevdetocc_gf": (1124, 229.9),
    "fbocc": (1118, 294.1),
    "fbocc_gf": (1122, 284.4),
    "sparseocc": (2807, 389.9),
    "causal_alocc_3d_16f": (1534, 330.5),
    "alocc_town": (512, 9.1),
}


@pytest.fixture(scope="module", autouse=True)
def guard() -> None:
    """Skips where fake CUDA tensors cannot be had."""
    try:
        register_guard()
    except NoCompilerError as reason:
        pytest.skip(str(reason))


def one_camera(name: str) -> ModelCard:
    """The small card of a model for a rig with one of its cameras."""
    card = small_sparse_card(name) if name == "sparseocc" else small_card(get_card(name))
    return card.with_cameras([card.reference_camera])


@pytest.mark.parametrize("name", CEILINGS)
def test_a_step_waits_for_its_labels_alone(name: str) -> None:
    card = one_camera(name)
    for step in audit_stream(card):
        assert not step.network.stops, "\n".join(lines(step.network.stops))
        ways = sorted(place.split(":")[0] for place in step.around.copies)
        # Images and geometry go up without a wait; all results come down together.
        assert ways == ["device to host, waits"] + ["host to device"] * 2
        assert step.around.copies.total() == 3
        assert not step.around.reads
        assert not step.around.solvers and not step.around.mixed
    launches, megabytes = CEILINGS[name]
    assert step.network.launches.total() <= launches, step.network.launches
    assert step.live_bytes <= 1.001 * megabytes * 1e6  # some tens of kilobytes differ between runs


def booked(work) -> StepAudit:
    """What the audit books of work on a (4, 8) float32 tensor of the device."""
    audit = DeviceAudit()
    with fake_cuda(), audit, torch.no_grad():
        x = torch.empty(4, 8, device=DEVICE)
        audit.begin_step()
        work(x)
    return audit.around


def test_copies_are_seen_and_whether_they_wait() -> None:
    host = torch.ones(8)
    (up,) = booked(lambda x: x.add_(host.to(DEVICE))).copies
    assert up.startswith("host to device, waits: aten::_to_copy at test_device_audit.py:")
    (up,) = booked(lambda _: host.to(DEVICE, non_blocking=True)).copies
    assert up.startswith("host to device, waits")  # from memory that is not page-locked
    (up,) = booked(lambda _: torch.ones(8, pin_memory=True).to(DEVICE, non_blocking=True)).copies
    assert up.startswith("host to device: aten::_to_copy")
    (up,) = booked(lambda _: torch.ones(8, pin_memory=True).to(DEVICE)).copies
    assert up.startswith("host to device, waits")
    (up,) = booked(lambda x: x[0].copy_(host)).copies
    assert up.startswith("host to device, waits: aten::copy_")
    (down,) = booked(lambda x: x.cpu()).copies
    assert down.startswith("device to host, waits: aten::_to_copy")
    assert booked(lambda x: x.new_tensor([1.0, 2.0])).copies.total() == 1
    assert booked(lambda x: x[:, [1, 0]]).copies.total() == 1
    assert not booked(lambda x: x.to(torch.float64).copy_(x)).copies


def test_reads_and_solvers_are_seen() -> None:
    assert booked(lambda x: x.sum().item()).reads.total() == 1
    assert booked(lambda x: 1 if x.isnan().any() else 0).reads.total() == 1
    assert booked(lambda x: torch.linalg.inv_ex(x[:, :4])).solvers.total() == 1
    audit = DeviceAudit()
    for read in (lambda x: x.nonzero(), lambda x: x[x > 0]):
        with fake_cuda(), audit, pytest.raises(Exception, match=r"[Dd]ynamic|nonzero"):
            read(torch.empty(4, 8, device=DEVICE))
    assert audit.around.reads.total() == 2


def test_operands_of_the_host_are_seen_unless_a_kernel_takes_them_as_a_number() -> None:
    assert booked(lambda x: x[torch.arange(2)]).mixed.total() == 1  # torch copies it
    assert booked(lambda x: torch.where(x > 0, x, torch.tensor(0.0))).mixed.total() == 1
    numbers = booked(lambda x: torch.where(x > 0, x * 2.0 + torch.tensor(0.5), 0.0).clamp(min=0.1))
    assert not numbers.stops


def test_launches_and_bytes_are_those_of_kernels() -> None:
    work = booked(lambda x: (x.T[:, None] + x.new_empty(4)).relu())  # 32 numbers, 4; 32 out; relu
    assert work.launches.total() == 2
    assert work.bytes_moved == 4 * ((32 + 4 + 32) + (32 + 32))
    row = torch.empty(1, 8)
    looked_up = booked(lambda x: x[row.new_zeros(2, dtype=torch.int64).to(DEVICE)])
    assert looked_up.bytes_moved == 4 * (16 + 16) + 2 * 8  # rows that are read, written; indices
    assert booked(lambda x: x.expand(3, 4, 8).exp()).bytes_moved == 4 * (32 + 96)


def test_memory_is_that_of_tensors_alive_at_once() -> None:
    audit, size = DeviceAudit(), 4 * 1024
    with fake_cuda(), audit, torch.no_grad():
        x = torch.empty(1024, device=DEVICE)
        audit.begin_step()
        y = x + 1
        z = y[:512].view(2, 256)
        del y  # its view keeps it
        w = z * 2
        del z
        assert audit.peak_bytes == 2 * size + size // 2
        audit.begin_step()
        del x
        v = w + w
        assert audit.peak_bytes == size + size // 2  # the most was before v came
        del v, w


@pytest.mark.parametrize(
    ("planted", "booked_as"),
    [
        (lambda x: x * x.sum().item(), "reads"),
        (lambda x: x + torch.tensor([1.0], device=x.device), "copies"),
        (lambda x: x + torch.linalg.inv_ex(x.new_empty(3, 3)).inverse[0, 0], "solvers"),
        (lambda x: x[:, torch.arange(x.shape[1])], "mixed"),
    ],
)
def test_what_is_planted_in_a_network_is_found(planted, booked_as: str) -> None:
    card = one_camera("alocc_2d_mini")
    net = network_without_data(card)
    net.encoder.register_forward_hook(lambda _part, _inputs, output: planted(output))
    (step,) = audit_stream(card, net, frames=1)
    (place,) = step.network.stops
    assert getattr(step.network, booked_as)[place] == 1
    assert "test_device_audit.py:" in place or "occupancy_net.py:" in place


def test_small_inputs_go_up_in_one_copy_that_nothing_waits_for() -> None:
    audit = DeviceAudit()
    with fake_cuda(), audit:
        there = upload(GridAugmentation.none(2), DEVICE)
    (place,) = audit.around.copies
    assert place.startswith("host to device: ")
    assert there.matrix_B33.device == there.inverse_B33.device == DEVICE
    assert (there.matrix_B33.dtype, there.inverse_B33.dtype) == (torch.float32, torch.float64)
    assert there.matrix_B33.shape == there.inverse_B33.shape == (2, 3, 3)
