"""``occ score``: predictions against ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from occ_perception.atomic import write_whole
from occ_perception.cli.model_options import warn
from occ_perception.errors import OptionError

if TYPE_CHECKING:
    from occ_perception.metrics.recorded import Scores

_SHOWN_PROBLEMS = 5


def score(
    predictions: Annotated[
        Path,
        typer.Argument(
            help="Results of `occ run`, bag with occupancy, folder of .npz files, or a folder of "
            "`occ-train eval --save`."
        ),
    ],
    ground_truth: Annotated[
        Path | None,
        typer.Option(
            metavar="BAG|DIR",
            help="Ground truth; by default /ground_truth of the bag. Of a saved evaluation: the "
            "folder gts/ of Occ3D.",
        ),
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Occupancy topic, if the bag has several.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the scores as JSON.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the scores as CSV.")] = None,
) -> None:
    """Score predictions: mIoU and IoU of voxels, velocity errors, by class.

    Only voxels that a camera sees count where the ground truth says which those are.
    """
    from occ_perception.bags.label_trees import is_label_tree

    if is_label_tree(predictions):
        if topic is not None:
            raise OptionError("--topic is for bags; a saved evaluation has none")
        if ground_truth is None:
            raise OptionError(f"{predictions} is a saved evaluation; give --ground-truth gts/")
        scores = _of_label_trees(predictions, ground_truth)
    else:
        scores = _of_recording(predictions, ground_truth, topic)
    report = scores.report(str(predictions))
    report.print()
    if json is not None:
        write_whole(json, report.to_json())
    if csv is not None:
        write_whole(csv, report.to_csv())


def _of_label_trees(predictions: Path, ground_truth: Path) -> Scores:
    from occ_perception.bags.label_trees import LabelPairs
    from occ_perception.metrics.recorded import Scoring

    pairs, scoring = LabelPairs(predictions, ground_truth), Scoring()
    if missing := pairs.without_truth:
        warn(f"{len(missing)} predictions have no ground truth and do not count: {missing[0]}, ...")
    for pair in pairs:
        scoring.add(pair.prediction, pair.truth, pair.in_view_XYZ)
    scores = scoring.result()
    assert scores is not None
    return scores


def _of_recording(source: Path, ground_truth: Path | None, topic: str | None) -> Scores:
    from occ_perception.bags.playback import Playback
    from occ_perception.bags.recording import BagError
    from occ_perception.metrics.recorded import Scoring

    scoring, without = Scoring(), 0
    with Playback(source, None, ground_truth, topic, with_cameras=False) as playback:
        for frame in playback:
            if frame.is_truth:
                raise BagError(f"{source} holds ground truth and no predictions")
            if frame.truth is None:
                without += 1
                continue
            scoring.add(frame.prediction, frame.truth, frame.in_view_XYZ)
        problems = [str(problem) for problem in playback.problems]
    for problem in problems[:_SHOWN_PROBLEMS]:
        warn(f"skipped: {problem}")
    if len(problems) > _SHOWN_PROBLEMS:
        warn(f"... and {len(problems) - _SHOWN_PROBLEMS} more")
    scores = scoring.result()
    if scores is None:
        raise BagError(
            f"{source} has no prediction with ground truth at its time; give --ground-truth with "
            "the bag or folder that has it"
        )
    if without:
        warn(f"{without} predictions have no ground truth at their time and do not count")
    return scores
