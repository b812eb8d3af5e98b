"""A model by name, and its predictions on drives.

::

    model = load("alocc_3d", weights="alocc_3d.pth")
    for prediction in model.predict("drive.mcap"):
        prediction.save(f"{prediction.stamp_ns}.npz")
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from occ_perception.bags.camera_drives import CameraDrive, open_drive
from occ_perception.bags.recording import BagProblem
from occ_perception.errors import OptionError
from occ_perception.frames import CameraFrame, CameraRig
from occ_perception.inference.prediction import Prediction
from occ_perception.mapping.visibility import ObservedSpace
from occ_perception.models.card import ModelCard, ModelError
from occ_perception.models.postprocess import NotFiniteError
from occ_perception.models.zoo import MODELS, get_card
from occ_perception.runtime.execution import Execution, PreparedStep
from occ_perception.runtime.self_check import AUTO, Choice, choose_execution
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weight_files import fetch_weights, find_weights
from occ_perception.runtime.weights import LoadedModel, load_model
from occ_perception.sensing.layouts import TopicLayout

Source = str | Path | CameraDrive | Iterable[CameraFrame] | CameraFrame
"""What a model predicts on: a bag or a folder of images, an open drive, frames, or one frame."""


def list_models() -> tuple[ModelCard, ...]:
    """The card of every model, in the order of their families; ``card.name`` is what to load."""
    return tuple(MODELS.values())


def load(
    name: str,
    weights: str | Path | None = None,
    *,
    random_weights: int | None = None,
    device: str = AUTO,
    precision: str = AUTO,
    execution: str = AUTO,
    engine: str | Path | None = None,
) -> Model:
    """A model of the zoo with its weights.

    Args:
        name: of the model, see :func:`list_models`.
        weights: checkpoint (.pth or .safetensors). By default the released one, which is
            downloaded when it is not on this machine yet.
        random_weights: a seed for random weights instead; predictions then mean nothing.
        device: ``auto`` is a GPU where there is one; else as torch names it.
        precision: ``auto``, ``fp32``, ``tf32``, ``bf16`` or ``fp16``.
        execution: ``auto``, ``eager``, ``graph``, ``compile`` or ``reference``.
        engine: file of `occ models export`, which has its own weights and runs where its runtime
            does.

    Raises:
        ModelError: there is no such model, or it is not the one of the engine.
        WeightsError: it has no released weights, or they cannot be fetched.
        CheckpointError: the file does not fit; the message names every key.
        OptionError: two sources of weights are given, or the device is not there.
    """
    card = get_card(name)
    if engine is not None:
        if weights is not None or random_weights is not None:
            raise OptionError("an engine has its own weights: give weights, a seed, or an engine")
        return exported_model(engine, name)
    given = weights is not None or random_weights is not None
    if not given and card.url is not None and find_weights(card) is None:
        fetch_weights(card)
    model = Model(name, weights, random_weights, device, precision, execution)
    model.loaded_for(card.cameras)
    if random_weights is not None:
        warnings.warn(
            f"weights are random (seed {random_weights}): the output is meaningless", stacklevel=2
        )
    return model


def exported_model(path: str | Path, name: str | None = None) -> ExportedModel:
    """The model in a file of `occ models export`.

    Args:
        path: the file.
        name: the model that it must be.

    Raises:
        ModelError: it is another model.
        ExportError, MissingPackageError: see :class:`ExportedModel`.
    """
    model = ExportedModel(path)
    if name is not None and name != model.card.name:
        raise ModelError(f"{path} is the model {model.card.name}, not {name}")
    return model


@dataclass(frozen=True)
class Engine:
    """What runs a network.

    Attributes:
        loaded: the network.
        execution: how it is run.
        words: the same for people.
        choice: how that was found out; None where it was given.
    """

    loaded: LoadedModel
    execution: Execution | PreparedStep
    words: str
    choice: Choice | None = None


class Model:
    """A model with its weights, from :func:`load`; it is loaded when it is first used.

    Args:
        name, weights, random_weights, device, precision, execution: see :func:`load`.

    Attributes:
        card: what the model is.
    """

    def __init__(
        self,
        name: str,
        weights: str | Path | None = None,
        random_weights: int | None = None,
        device: str = AUTO,
        precision: str = AUTO,
        execution: str = AUTO,
    ) -> None:
        self.card = get_card(name)
        self._weights = weights
        self._random_weights = random_weights
        self._device = device
        self._precision, self._mode = precision, execution
        self._loaded: dict[tuple[str, ...], LoadedModel] = {}
        self._engines: dict[tuple[str, ...], Engine] = {}

    def __repr__(self) -> str:
        known = next(iter(self._loaded.values()), None)
        where = "not loaded yet" if known is None else f"{known.label} on {known.device}"
        X, Y, Z = self.card.grid.dims
        return f"<Model {self.card.name}: {where}, {len(self.card.cameras)} cameras, {X}x{Y}x{Z}>"

    def loaded_for(self, cameras: Collection[str]) -> LoadedModel:
        """The network for those of its cameras that there are.

        Raises:
            ModelError: none of its cameras is there.
            WeightsError, CheckpointError, OptionError: see :func:`load`.
        """
        present = self.card.with_cameras(cameras).cameras
        if present not in self._loaded:
            self._loaded[present] = load_model(
                self.card.name, self._weights, self._random_weights, self._device, present
            )
        return self._loaded[present]

    def engine_for(self, cameras: Collection[str]) -> Engine:
        """What runs the network for these cameras; found out once.

        Raises:
            OptionError: there is no such precision or execution, or not on this device.
        """
        loaded = self.loaded_for(cameras)
        if loaded.card.cameras not in self._engines:
            choice = choose_execution(loaded, self._precision, self._mode)
            engine = Engine(loaded, choice.execution, str(choice.execution), choice)
            self._engines[loaded.card.cameras] = engine
        return self._engines[loaded.card.cameras]

    def predict(
        self,
        source: Source,
        *,
        layout: TopicLayout | str | Path | None = None,
        rig: CameraRig | str | Path | None = None,
        poses: str | Path | None = None,
        rate_hz: float | None = None,
        cameras: Mapping[str, str] | None = None,
        lidar_topic: str | None = None,
        every: int = 1,
        limit: int | None = None,
        commit_spacing_s: float | None = None,
    ) -> Predictions:
        """Predictions on a drive, one after the other as they are asked for.

        Args:
            source: a bag; a folder of images, with ``rig`` and ``poses``; an open drive; or camera
                frames. Frames of one drive share the history.
            layout, rig, poses, rate_hz, cameras, lidar_topic: of a path, see
                :func:`occ_perception.bags.camera_drives.open_drive`.
            every: use every n-th frame.
            limit: end after so many frames.
            commit_spacing_s: seconds between frames of the history; by default as in training.

        Raises:
            BagError, YamlError, InputPlanError: nothing can be read from the source.
            ModelError: the source has none of the model's cameras.
        """
        about_paths = (layout, rig, poses, rate_hz, cameras, lidar_topic)
        if isinstance(source, str | Path):
            drive = open_drive(
                source,
                layout=layout,
                rig=rig,
                poses=poses,
                rate_hz=rate_hz,
                cameras=cameras,
                model=self.card,
                lidar_topic=lidar_topic,
            )
            return Predictions(self, drive, every, limit, commit_spacing_s, closes=True)
        if any(argument is not None for argument in about_paths):
            raise OptionError(
                "layout, rig, poses, rate_hz, cameras and lidar_topic go with a path; frames and "
                "open drives have them already"
            )
        frames = [source] if isinstance(source, CameraFrame) else source
        return Predictions(self, frames, every, limit, commit_spacing_s)


class ExportedModel(Model):
    """A model in a file of `occ models export`; its cameras are fixed.

    Args:
        path: the .onnx file, with its card beside it.

    Raises:
        ExportError: the file or its card is missing, changed, or of another version.
        MissingPackageError: ONNX Runtime is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        from occ_perception.exporting.onnx_file import OnnxModel

        exported = OnnxModel(path)
        loaded = exported.loaded
        super().__init__(loaded.card.name)
        self.card = loaded.card
        self._loaded[loaded.card.cameras] = loaded
        engine = Engine(loaded, exported.step, str(exported))
        self._engines[loaded.card.cameras] = engine

    def loaded_for(self, cameras: Collection[str]) -> LoadedModel:
        """The network.

        Raises:
            ModelError: a camera of the file is not there.
        """
        if missing := [name for name in self.card.cameras if name not in cameras]:
            raise ModelError(
                f"the exported {self.card.name} needs the cameras {', '.join(self.card.cameras)}; "
                f"there is no {', '.join(missing)}. Export it for the cameras that there are"
            )
        return self._loaded[self.card.cameras]


class Predictions:
    """The predictions of a model on one drive: an iterator, and what there is to say about it.

    Frames whose output is not finite are left out and become problems.

    Args:
        model: the model.
        frames: an open drive, or camera frames.
        every: use every n-th frame.
        limit: end after so many frames; None = all.
        commit_spacing_s: seconds between frames of the history; None = as in training.
        closes: whether the drive is closed at the end.

    Attributes:
        engine: what runs, once the first frame or the drive says which cameras there are.
    """

    def __init__(
        self,
        model: Model,
        frames: CameraDrive | Iterable[CameraFrame],
        every: int = 1,
        limit: int | None = None,
        commit_spacing_s: float | None = None,
        *,
        closes: bool = False,
    ) -> None:
        if every < 1:
            raise OptionError(f"every must be at least 1, got {every}")
        self._model = model
        self._frames = frames
        self._closes = closes
        self._commit_spacing_s = commit_spacing_s
        self._not_finite: list[BagProblem] = []
        self.engine: Engine | None = None
        rig = getattr(frames, "rig", None)
        if rig is not None:
            try:
                self.engine = model.engine_for(rig.names)
            except BaseException:
                self.close()
                raise
        self._every, self._limit = every, limit
        self._iterator = self._each()

    def __iter__(self) -> Predictions:
        return self

    def __next__(self) -> Prediction:
        return next(self._iterator)

    def __enter__(self) -> Predictions:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End early; the drive is closed if it was opened for these predictions."""
        close = getattr(self._frames, "close", None)
        if self._closes and close is not None:
            close()

    @property
    def doubts(self) -> list[str]:
        """What can hardly be true of the drive's calibration, with advice."""
        return list(getattr(self._frames, "doubts", ()))

    @property
    def expected_frames(self) -> int | None:
        """Upper limit of the number of frames; None if the source does not know."""
        known: int | None = getattr(self._frames, "expected_frames", None)
        if known is None:
            return None
        expected = -(-known // self._every)
        return expected if self._limit is None else min(self._limit, expected)

    @property
    def problems(self) -> list[BagProblem]:
        """What was skipped so far, and why."""
        return [*getattr(self._frames, "problems", ()), *self._not_finite]

    def _each(self) -> Iterator[Prediction]:
        stream: OccupancyStream | None = None
        space = ObservedSpace() if find_spec("numba") else None
        try:
            for frame in islice(islice(self._frames, 0, None, self._every), self._limit):
                if stream is None:
                    stream = self._stream(frame.rig)
                try:
                    prediction = stream.step(frame)
                except NotFiniteError as error:
                    self._not_finite.append(BagProblem("not_finite", str(error), frame.stamp_ns))
                    continue
                if space is not None:
                    prediction = space.add(frame, prediction)
                yield Prediction.of(prediction, frame)
        finally:
            self.close()

    def _stream(self, rig: CameraRig) -> OccupancyStream:
        if self.engine is None:
            self.engine = self._model.engine_for(rig.names)
        return OccupancyStream(
            self.engine.loaded,
            getattr(self._frames, "ego_frame", "base_link"),
            self._commit_spacing_s,
            execution=self.engine.execution,
        )
