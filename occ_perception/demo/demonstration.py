"""The demonstration from end to end: town drive, node, film, scores, report."""

from __future__ import annotations

from pathlib import Path

from rich.progress import Progress

from occ_perception.demo.film import film_and_score
from occ_perception.demo.report import UNTRAINED, print_report, write_page
from occ_perception.demo.session import Played, Setting, play_through_node
from occ_perception.models.card import ModelCard
from occ_perception.models.zoo import get_card
from occ_perception.runtime.weight_files import find_weights
from occ_perception.synthetic.production import Production, write_drive
from occ_perception.synthetic.seeds import DEMO_DRIVE, DEMO_TOWN
from occ_perception.synthetic.sensors import SensorOptions

TOWN_MODEL = "alocc_town"
ANY_MODEL = "alocc_2d_mini"


def choose_network(model: str, on_town: bool) -> ModelCard:
    """The card of the network to show.

    Args:
        model: name of the network. "" = the town model if the drive is a town drive and its
            weights are on this machine, a small network otherwise.
        on_town: whether the drive is a town drive.

    Raises:
        ModelError: there is no such model.
    """
    if not model:
        has_weights = find_weights(get_card(TOWN_MODEL)) is not None
        model = TOWN_MODEL if on_town and has_weights else ANY_MODEL
    return get_card(model)


def make_drive(out: Path, frames: int, size: tuple[int, int]) -> Path:
    """The demonstration drive as a bag below ``out``; reused if an earlier run has written it.

    Args:
        out: folder.
        frames: frame sets, at 2 Hz.
        size: (width, height) of the images.

    Raises:
        OptionError: a drive is shorter than that.
        OutputError: the bag exists but is of another version, or it cannot be written.
    """
    width, height = size
    bag = out / f"town_{frames}x{width}x{height}"
    production = Production(frames=frames, sensors=SensorOptions(size=size), bag="mcap")
    if bag.is_dir():  # write_drive checks its provenance
        print(f"reusing the drive of an earlier run: {bag}")
    else:
        print("generating the drive; kernels are compiled on first use")
    with Progress(transient=True) as progress:
        task = progress.add_task("drive", total=None)
        write_drive(
            production,
            (DEMO_TOWN, DEMO_DRIVE),
            bag,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    return bag


def demonstrate(setting: Setting) -> bool:
    """Play, score, film and report; returns whether every frame set has an output.

    Raises:
        DemoError, BagError, YamlError: the bag cannot be used, or a process did not start.
    """
    if not setting.weights:
        print(f"weights are random (seed {setting.seed}). {UNTRAINED}")
    played = play_through_node(setting)
    filmed = None
    if played.recorded is not None:
        filmed = film_and_score(setting, played.recorded, played.grids, _rate_hz(played))
    print_report(played, filmed)
    page = write_page(setting, played, filmed)
    if filmed is not None:
        print(f"film            {filmed.film}")
    print(f"report          {page.resolve()}")
    return bool(played.frame_sets) and not played.without_output


def _rate_hz(played: Played) -> float:
    stamps = [frame_set.stamp_ns for frame_set in played.frame_sets]
    if len(stamps) < 2 or stamps[-1] <= stamps[0]:
        return 0.0
    return 1e9 * (len(stamps) - 1) / (stamps[-1] - stamps[0])
