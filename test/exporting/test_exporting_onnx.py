"""Models as ONNX files: nothing but standard operations, the state in and out, equal labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_streams import frame_at, small_card, surround_rig
from typer.testing import CliRunner

import occ_perception as occ
from occ_perception.cli import app
from occ_perception.exporting.flat_step import NEXT, STATE
from occ_perception.exporting.onnx_file import ExportError, OnnxModel, write_onnx
from occ_perception.exporting.parity import ENOUGH, compare_frames
from occ_perception.models.card import ModelError
from occ_perception.models.zoo import MODELS, get_card
from occ_perception.ops.sampling import linear_corners, sample_rows
from occ_perception.ops.splat import hard_splat, soft_splat
from occ_perception.runtime.random_frames import random_frames
from occ_perception.runtime.weights import LoadedModel, load_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

NAMES = {"alocc_town": "town_small", "alocc_2d_mini": "mini_small"}
SLOW_TO_TRACE = pytest.param("mini_small", marks=pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def small_models() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name, small in NAMES.items():
            patch.setitem(MODELS, small, small_card(name, rename=small))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


def exported(folder: Path, small: str) -> tuple[LoadedModel, OnnxModel]:
    """A model with random weights and its file, written once."""
    model, path = load_model(small, random_seed=3), folder / f"{small}.onnx"
    if not path.exists():
        write_onnx(model, path)
    return model, OnnxModel(path)


@pytest.mark.parametrize("small", ["town_small", SLOW_TO_TRACE])
def test_a_file_says_what_the_model_says_with_its_state_fed_back(folder, small) -> None:
    model, file = exported(folder, small)
    rows = list(compare_frames(model, file, random_frames(model.card, 5)))
    assert len(rows) == 5
    for row in rows:
        assert row.is_enough and row.labels >= ENOUGH
        assert row.state < 1e-3
        assert row.velocity is None or row.velocity < 1e-3
    assert model.card.config.predicts_flow == (rows[0].velocity is not None)


@pytest.mark.parametrize("small", ["town_small", SLOW_TO_TRACE])
def test_a_file_has_standard_operations_and_no_doubles(folder, small) -> None:
    exported(folder, small)
    graph = onnx.load(str(folder / f"{small}.onnx"))
    onnx.checker.check_model(graph, full_check=True)
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}
    assert not graph.functions
    double = onnx.TensorProto.DOUBLE
    typed = [*graph.graph.value_info, *graph.graph.input, *graph.graph.output]
    assert not [v.name for v in typed if v.type.tensor_type.elem_type == double]
    assert not [w.name for w in graph.graph.initializer if w.data_type == double]
    casts = [n for n in graph.graph.node if n.op_type == "Cast"]
    assert not [n.name for n in casts if n.attribute[0].i == double]


def test_the_card_says_what_a_vehicle_needs(folder) -> None:
    model, _ = exported(folder, "town_small")
    card = json.loads((folder / "town_small.json").read_text())
    graph = onnx.load(str(folder / "town_small.onnx")).graph
    assert [port["name"] for port in card["inputs"]] == [i.name for i in graph.input]
    assert [port["name"] for port in card["outputs"]] == [o.name for o in graph.output]
    shapes = {port["name"]: tuple(port["shape"]) for port in card["inputs"] + card["outputs"]}
    assert card["state"]
    for after, before in card["state"].items():
        assert after.startswith(NEXT) and before.startswith(STATE)
        assert shapes[after] == shapes[before]
    assert card["model"] == "town_small" and card["weights"] == "random:3"
    assert card["class_names"][card["empty_class"]] == "free"
    assert card["cameras"] == list(model.card.cameras)
    assert shapes["labels_BXYZ"] == (1, *model.card.grid.dims)


def test_predictions_come_from_a_file_as_from_a_model(folder) -> None:
    exported(folder, "town_small")
    rig = surround_rig(MODELS["town_small"].cameras)
    frames = [frame_at(1.0 + 0.5 * n, rig) for n in range(3)]
    model = occ.load("town_small", engine=folder / "town_small.onnx")
    with pytest.warns(UserWarning, match="meaningless"):
        own = occ.load("town_small", random_weights=3)
    for got, expected in zip(model.predict(frames), own.predict(frames), strict=True):
        assert (got.labels == expected.labels).mean() >= ENOUGH
        assert got.model == expected.model
        assert got.history_length == expected.history_length
    with pytest.raises(ModelError, match=r"needs the cameras .* there is no CAM_BACK_RIGHT"):
        list(model.predict(frame_at(1.0, surround_rig(MODELS["town_small"].cameras[:5]))))
    with pytest.raises(ModelError, match="is the model town_small, not mini_small"):
        occ.load("mini_small", engine=folder / "town_small.onnx")


def test_the_command_writes_file_card_and_comparison(tmp_path) -> None:
    path = tmp_path / "town.onnx"
    arguments = ["models", "export", "town_small", "--random-weights", "5", "--frames", "2", "-o"]
    result = CliRunner().invoke(app, [*arguments, str(path)])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "town.parity.json").read_text())
    assert report["passed"] and len(report["frames"]) == 2
    again = CliRunner().invoke(app, [*arguments, str(path)])
    assert again.exit_code == 2 and "exists already" in again.output
    wrong = CliRunner().invoke(app, [*arguments, str(tmp_path / "town.pt")])
    assert wrong.exit_code == 2 and "expected a name ending in .onnx" in wrong.output


def test_a_changed_file_or_card_is_refused(folder, tmp_path) -> None:
    exported(folder, "town_small")
    for suffix in (".onnx", ".json"):
        source = folder / f"town_small{suffix}"
        (tmp_path / source.name).write_bytes(source.read_bytes())
    path = tmp_path / "town_small.onnx"
    with path.open("ab") as file:
        file.write(b"\\0")
    with pytest.raises(ExportError, match="is not the file of"):
        OnnxModel(path)
    (tmp_path / "town_small.json").write_text("{}")
    with pytest.raises(ExportError, match="is not the card of an exported model"):
        OnnxModel(path)
    with pytest.raises(ExportError, match=r"no file .*nowhere.onnx; `occ models export` writes"):
        OnnxModel(tmp_path / "nowhere.onnx")


class Splats(torch.nn.Module):
    def forward(self, voxels, weights, features, table, places):
        dims = (7, 6, 4)
        corners = linear_corners(places, (5, 6, 4))
        return (
            soft_splat(voxels, weights, features, dims),
            hard_splat(voxels, weights, features, dims),
            sample_rows(table, corners),
        )


def test_forms_without_bags_are_the_same_operations() -> None:
    rng = torch.Generator().manual_seed(0)
    voxels = torch.rand((1, 2, 5, 3, 4, 3), generator=rng) * 9 - 1
    weights = torch.rand((1, 2, 5, 3, 4), generator=rng)
    features = torch.randn((1, 2, 8, 3, 4), generator=rng)
    table = torch.randn((1, 120, 8), generator=rng)
    places = torch.rand((1, 50, 3), generator=rng) * torch.tensor([4.0, 5.0, 3.0])
    arguments = (voxels, weights, features, table, places)
    program = torch.export.export(Splats(), arguments)
    targets = {str(node.target) for node in program.graph.nodes}
    assert not any("embedding_bag" in t or "searchsorted" in t for t in targets)
    for got, expected in zip(program.module()(*arguments), Splats()(*arguments), strict=True):
        np.testing.assert_allclose(got.numpy(), expected.numpy(), atol=1e-5)


def test_the_zoo_is_not_changed_by_these_tests() -> None:
    assert get_card("alocc_town").name == "alocc_town"
