"""The film of the demonstration, the moment that its page shows, and the scores of its frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from occ_perception.bags.playback import Playback, PlaybackFrame
from occ_perception.demo.setting import Setting, counted
from occ_perception.errors import OccError
from occ_perception.metrics.recorded import Scores, Scoring
from occ_perception.viewer.comparison import Comparison, compare
from occ_perception.viewer.films import Film
from occ_perception.viewer.images import film_image

_USUAL_RATE, _HIGHEST_RATE = 2.0, 60.0


@dataclass(frozen=True, eq=False)
class Filmed:
    """Film and scores of the recorded outputs.

    Attributes:
        film: path of the film.
        codec: codec of the film.
        still: (H, W, 3) uint8 RGB, the middle image of the film.
        moment: the frame of that image.
        scores: None if the bag has no matching ground truth.
        note: why there are no scores; "" if there are.
        model: name and weights as the outputs state them.
    """

    film: Path
    codec: str
    still: NDArray[np.uint8]
    moment: PlaybackFrame
    scores: Scores | None
    note: str
    model: str


def film_and_score(setting: Setting, recorded: Path, grids: int, rate_hz: float) -> Filmed:
    """Film the recorded outputs beside the images and ground truth of the bag, and score them.

    Args:
        setting: settings of the demonstration.
        recorded: bag with the outputs.
        grids: number of grids in it, at least one.
        rate_hz: images per second of the film; 0 if the bag's rate is unknown.
    """
    scoring, note = Scoring(), ""
    path = setting.out / "film.mp4"
    film = Film(path, min(rate_hz, _HIGHEST_RATE) or _USUAL_RATE)
    still, moment = None, None
    layout = setting.layout or None
    with (
        Playback(recorded, cameras=setting.bag, layout=layout) as playback,
        film,
        counted("images of the film", grids) as bar,
    ):
        for number, frame in enumerate(playback):
            comparison = None
            if frame.truth is None:
                note = note or "the bag has no ground truth at the stamps of the outputs"
            else:
                try:
                    comparison = _scored(frame, scoring)
                except OccError as error:
                    note = str(error)
            image = film_image(frame.prediction, frame.camera_frame, comparison)
            film.write(image)
            if number <= grids // 2:
                still, moment = image, frame
            bar.at(number + 1)
    assert still is not None and moment is not None
    scores = scoring.result()
    return Filmed(
        film=path,
        codec=film.codec,
        still=still,
        moment=moment,
        scores=scores,
        note="" if scores else note,
        model=moment.prediction.model,
    )


def _scored(frame: PlaybackFrame, scoring: Scoring) -> Comparison:
    assert frame.truth is not None
    comparison = compare(frame.prediction, frame.truth, frame.in_view_XYZ)
    scoring.add(frame.prediction, frame.truth, frame.in_view_XYZ)
    return comparison
