"""Options of every command that runs a model, and what is said about how it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from occ_perception.inference.model import Predictions
    from occ_perception.runtime.execution import Execution
    from occ_perception.runtime.self_check import Choice
    from occ_perception.runtime.weights import LoadedModel

Weights = Annotated[Path | None, typer.Option(help="Checkpoint: .pth or .safetensors.")]
RandomWeights = Annotated[
    int | None,
    typer.Option(metavar="SEED", help="Random weights instead; the result is meaningless."),
]
Layout = Annotated[
    str | None, typer.Option(help="Topic layout, name or YAML file; recognised by default.")
]
Rig = Annotated[
    str | None,
    typer.Option(
        help="Rig: name, YAML file or folder of calibration files; from the bag by default."
    ),
]
LidarTopic = Annotated[
    str | None,
    typer.Option(help="Lidar points, for models that take lidar depth; found by default."),
]
Poses = Annotated[
    Path | None,
    typer.Option(help="Ego poses of a folder of images: TUM, KITTI or CSV."),
]
Rate = Annotated[
    float | None,
    typer.Option(
        "--rate", metavar="HZ", help="Moments per second of a folder of images without times."
    ),
]
EngineFile = Annotated[
    Path | None,
    typer.Option("--engine", metavar="FILE.onnx", help="Run a file of `occ models export`."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
Precision = Annotated[
    str,
    typer.Option(
        metavar="auto|fp32|tf32|bf16|fp16",
        help="Number format; auto: the fastest that agrees with fp32 here.",
    ),
]
Mode = Annotated[
    str,
    typer.Option(
        "--execution",
        metavar="auto|eager|graph|compile|reference",
        help="Operation by operation, as a CUDA graph, compiled, which takes minutes, or by the "
        "readable operations alone; auto: a graph where it works.",
    ),
]


def chosen_execution(model: LoadedModel, precision: str, mode: str) -> Execution:
    """How the model runs here; says so on standard error unless it is the reference.

    Raises:
        OptionError: there is no such precision or execution, or not on this device.
    """
    from occ_perception.runtime.self_check import choose_execution

    choice = choose_execution(model, precision, mode)
    tell_choice(choice)
    return choice.execution


def tell_choice(choice: Choice) -> None:
    """Say on standard error how the model runs, unless it is the reference."""
    for sentence in choice.passed_over:
        typer.echo(f"not used: {sentence}", err=True)
    if choice.doubt:
        typer.secho(choice.doubt, fg=typer.colors.YELLOW, err=True)
    elif choice.agreement is not None:
        typer.echo(f"the network runs in {choice}", err=True)


def warn(text: str) -> None:
    """Print a warning on standard error."""
    typer.secho(text, fg=typer.colors.YELLOW, err=True)


def tell_about(predictions: Predictions, random_weights: int | None, meaningless: str) -> None:
    """Say on standard error what is special about a model on a drive.

    Args:
        predictions: that have not begun; made from an open drive.
        random_weights: the seed, if weights are random.
        meaningless: what is meaningless then.
    """
    engine = predictions.engine
    assert engine is not None
    loaded = engine.loaded
    if random_weights is not None:
        warn(f"weights are random (seed {random_weights}): the {meaningless} is meaningless")
    if absent := loaded.card.absent_cameras:
        warn(
            f"the rig has no {', '.join(absent)}; voxels that only such a camera sees stay empty "
            "or are guessed"
        )
    for doubt in predictions.doubts:
        warn(doubt)
    if engine.choice is not None:
        tell_choice(engine.choice)
