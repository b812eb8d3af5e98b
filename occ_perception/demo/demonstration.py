"""The demonstration from end to end: town drive, node, film, scores, report."""

from __future__ import annotations

from pathlib import Path

from occ_perception.demo.film import film_and_score
from occ_perception.demo.in_process import play_in_process
from occ_perception.demo.report import print_report, write_page
from occ_perception.demo.setting import Played, Setting, counted
from occ_perception.errors import needed_for
from occ_perception.models.card import ModelCard
from occ_perception.models.zoo import get_card
from occ_perception.synthetic.production import Production, write_drive
from occ_perception.synthetic.seeds import DEMO_DRIVE, DEMO_TOWN
from occ_perception.synthetic.sensors import SensorOptions, frame_times

TOWN_MODEL = "alocc_town"
ANY_MODEL = "alocc_2d_mini"


def choose_network(model: str, on_town: bool) -> ModelCard:
    """The card of the network to show.

    Args:
        model: name of the network. "" = the town model if the drive is a town drive, which it is
            made for and which a CPU runs fast, a small network otherwise.
        on_town: whether the drive is a town drive.

    Raises:
        ModelError: there is no such model.
    """
    if not model:
        model = TOWN_MODEL if on_town else ANY_MODEL
    return get_card(model)


def check_drive(frames: int, rate: float) -> None:
    """Whether the demonstration drive has so many frame sets at that rate.

    Raises:
        OptionError: it has not.
    """
    frame_times(frames, rate)


def make_drive(out: Path, frames: int, rate: float, size: tuple[int, int]) -> Path:
    """The demonstration drive as a bag below ``out``; reused if an earlier run has written it.

    Args:
        out: folder.
        frames: frame sets, each with its ground truth.
        rate: frame sets per second.
        size: (width, height) of the images.

    Raises:
        OptionError: a drive is shorter than that, or the rate is not a multiple of 2 Hz.
        OutputError: the bag exists but is of another version, or it cannot be written.
    """
    width, height = size
    bag = out / f"town_{frames}x{width}x{height}_{rate:g}hz"
    sensors = SensorOptions(size=size)
    production = Production(frames=frames, sensors=sensors, bag="mcap", rate=rate, truth_rate=rate)
    if bag.is_dir():  # write_drive checks its provenance
        print(f"reusing the drive of an earlier run: {bag}")
    with counted("frame sets rendered", frames) as bar:
        write_drive(production, (DEMO_TOWN, DEMO_DRIVE), bag, lambda done, _: bar.at(done))
    return bag


def has_ros() -> bool:
    """Whether node and player can run: rclpy and the built messages are there."""
    try:
        import rclpy  # noqa: F401

        from occ_msgs.msg import SemanticOccupancy  # noqa: F401
    except ImportError:
        return False
    return True


def demonstrate(setting: Setting, over_dds: bool) -> bool:
    """Play, score, film and report; returns whether every frame set has an output.

    Args:
        setting: what is played.
        over_dds: through node and player, as on a vehicle; otherwise in this process.

    Raises:
        DemoError, BagError, YamlError: the bag cannot be used, or a process did not start.
    """
    played = _played(setting, over_dds)
    filmed = None
    if played.recorded is not None:
        filmed = film_and_score(setting, played.recorded, played.grids, played.rate_hz)
    print_report(played, filmed)
    page = write_page(setting, played, filmed)
    if filmed is not None:
        print(f"film            {filmed.film}")
    print(f"report          {page.resolve()}")
    return bool(played.frame_sets) and not played.without_output


def _played(setting: Setting, over_dds: bool) -> Played:
    if not over_dds:
        return play_in_process(setting)
    with needed_for("the demonstration over DDS"):
        from occ_perception.demo.over_dds import play_through_node
    return play_through_node(setting)
