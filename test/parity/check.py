"""Compare our networks with reference numbers: ``python test/parity/check.py FILE.npz ...``.

Builds the model that a golden file describes, fills its weights by the file's recipe, runs its
five frames with the state carried along, and prints one line per intermediate and frame. Exits
with 1 where the pass rule is broken, with 2 where a file cannot be checked at all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from flips import OtherSide, explained_by_flips, with_slack
from golden_file import GoldenFile, Samples, UnknownConfigError
from rounding import OwnNumbers, PreciseTwin, needs_twin, within_rounding
from shaken import Shaken, explained_by_rounding, spread
from sparse_golden import SparseGoldenFile, check_sparse_file
from taps import FLOWS, LIFTS, tapped
from torch import Tensor, nn
from verdict import FLOW_TOLERANCE, Verdict, compare, compare_labels, conclusion

from occ_perception.models.inputs import NetOutputs
from occ_perception.models.postprocess import decode
from occ_perception.models.sparseocc.net import SparseOccConfig

ZEROS_IN_MATCHING = "exact zeros in the flow's matching"


def opened(path: str | Path) -> GoldenFile:
    """The file, of the kind that its model needs.

    Raises:
        UnknownConfigError: no model of the zoo has the file's configuration.
    """
    golden = GoldenFile(path)
    sparse = isinstance(golden.card.config, SparseOccConfig)
    return SparseGoldenFile(path) if sparse else golden


def check_file(golden: GoldenFile, device: torch.device) -> Iterator[tuple[int, Verdict]]:
    """Verdicts of all frames, as they are reached: (frame, verdict)."""
    if isinstance(golden, SparseGoldenFile):
        yield from check_sparse_file(golden, device)
        return
    net = golden.build().to(device)
    discontinuities = discontinuities_of(net)
    twin = PreciseTwin(golden, device) if needs_twin(net, device) else None
    other_side = OtherSide(golden, net, device) if discontinuities else None
    shaken = Shaken(golden, net, device) if discontinuities else None
    state = net.initial_state(batch_size=1)
    for frame in golden.frames:
        inputs = golden.inputs(frame, device)
        with torch.no_grad(), tapped(net) as caught:
            outputs, state = net(inputs, state)
        verdicts = list(frame_verdicts(golden, frame, caught, outputs, discontinuities))
        if twin is not None and not all(verdict.passed for verdict in verdicts):
            own = frame_verdicts(twin.run_to(frame), frame, caught, outputs, discontinuities)
            verdicts = [within_rounding(*pair) for pair in zip(verdicts, own, strict=True)]
        if other_side is not None and not all(verdict.passed for verdict in verdicts):
            flipped, flipped_outputs = other_side.run_to(frame)
            caught = with_slack(caught, flipped)
            slack = (outputs.logits_BKXYZ - flipped_outputs.logits_BKXYZ).abs()
            allowing = frame_verdicts(golden, frame, caught, outputs, discontinuities, slack)
            verdicts = [explained_by_flips(*pair) for pair in zip(verdicts, allowing, strict=True)]
        if shaken is not None and not all(verdict.passed for verdict in verdicts):
            runs = [(flipped, flipped_outputs), *shaken.run_to(frame)]
            farthest, farthest_outputs = spread(caught, outputs, runs)
            slack = (outputs.logits_BKXYZ - farthest_outputs.logits_BKXYZ).abs()
            allowing = frame_verdicts(
                golden, frame, with_slack(caught, farthest), outputs, discontinuities, slack
            )
            verdicts = [
                explained_by_rounding(*pair) for pair in zip(verdicts, allowing, strict=True)
            ]
        yield from ((frame, verdict) for verdict in verdicts)


def frame_verdicts(
    golden: GoldenFile | OwnNumbers,
    frame: int,
    caught: dict[str, Tensor],
    outputs: NetOutputs,
    discontinuities: tuple[str, ...],
    logits_slack: Tensor | None = None,
) -> Iterator[Verdict]:
    """Everything that a file says about a frame, against what a network made of it."""
    for name in golden.names(frame):
        samples, slack = golden.samples(frame, name), caught.get(f"{name}|slack")
        flips = () if name in LIFTS else discontinuities
        if name in FLOWS:
            flips = (*discontinuities, ZEROS_IN_MATCHING)
        yield check_samples(name, caught.get(name), samples, flips, slack)
    logits = golden.logit_samples(frame)
    yield check_logits(outputs.logits_BKXYZ, logits, discontinuities, logits_slack)
    flow = golden.flow_samples(frame)
    if flow is not None:
        yield from check_flow(outputs.flow_BXYZ2, *flow)
    labels = decode(outputs, golden.card).labels_BXYZ[0].cpu().numpy()
    yield compare_labels(labels, golden.labels(frame))


def check_samples(
    name: str,
    got: Tensor | None,
    expected: Samples,
    discontinuities: tuple[str, ...] = (),
    slack: Tensor | None = None,
) -> Verdict:
    """Judge one intermediate; a missing one or another shape fails."""
    count = expected.values.size
    if got is None:
        note = "no tap gives this tensor: add a row to taps.py"
        return Verdict(name, np.inf, np.inf, count, count, False, note)
    if tuple(got.shape) != expected.shape:
        note = f"shape {tuple(got.shape)}, expected {expected.shape}"
        return Verdict(name, np.inf, np.inf, count, count, False, note)
    index = torch.from_numpy(expected.index).to(got.device)
    values = got.reshape(-1)[index].float().cpu().numpy()
    allowed = 0.0 if slack is None else slack.reshape(-1)[index].float().cpu().numpy()
    rms = expected.rms
    return compare(name, values, expected.values, rms, discontinuities, slack=allowed)


def check_logits(
    logits_BKXYZ: Tensor,
    expected: Samples,
    discontinuities: tuple[str, ...] = (),
    slack_BKXYZ: Tensor | None = None,
) -> Verdict:
    """Judge the head's output at the sampled voxels; the file's axes are (K, Y, X, Z)."""
    logits_KYXZ = logits_BKXYZ[0].transpose(1, 2)
    if tuple(logits_KYXZ.shape) != expected.shape:
        note = f"shape {tuple(logits_KYXZ.shape)}, expected {expected.shape}"
        count = expected.values.size
        return Verdict("logits", np.inf, np.inf, count, count, False, note)
    index = torch.from_numpy(expected.index).to(logits_KYXZ.device)
    values = logits_KYXZ.flatten(1)[:, index].float().cpu().numpy()
    allowed = 0.0
    if slack_BKXYZ is not None:
        allowed = slack_BKXYZ[0].transpose(1, 2).flatten(1)[:, index].float().cpu().numpy()
    rms = expected.rms
    return compare("logits", values, expected.values, rms, discontinuities, slack=allowed)


def check_flow(flow_BXYZ2: Tensor | None, raw: Samples, final: np.ndarray) -> list[Verdict]:
    """Judge velocities at the sampled voxels: the head's, (Y, X, Z) and along y first, and those
    that leave the network, (X, Y, Z) and along x first, which the file holds in half precision."""
    if flow_BXYZ2 is None:
        count = raw.values.size
        return [Verdict("flow", np.inf, np.inf, count, count, False, "the network has no flow")]
    public = flow_BXYZ2[0].float().cpu().numpy()
    inside = public.transpose(1, 0, 2, 3)[..., ::-1]
    if inside.shape != raw.shape:
        note = f"shape {inside.shape}, expected {raw.shape}"
        return [Verdict("flow", np.inf, np.inf, raw.values.size, raw.values.size, False, note)]
    got, leaving = inside.reshape(-1, 2)[raw.index], public.reshape(-1, 2)[raw.index]
    flips = (ZEROS_IN_MATCHING,)
    half = 2.0**-11 * np.abs(final.astype(np.float64))  # what rounding to half may have changed
    return [
        compare("flow", got, raw.values, raw.rms, flips, FLOW_TOLERANCE),
        compare("flow_final", leaving, final, raw.rms, flips, FLOW_TOLERANCE, slack=half),
    ]


def discontinuities_of(net: nn.Module) -> tuple[str, ...]:
    """Operations after the lift at which rounding may change single elements visibly."""
    names = {name for name, _ in net.named_modules()}
    if "temporal.motion" in names:
        return (
            "steep features where the motion field displaces sampling",
            "slope of that field at nodes",
            "edge of the grid",
        )
    return ()


def main(arguments: list[str] | None = None) -> int:
    """Check files and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("files", nargs="+", metavar="FILE.npz")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    options = parser.parse_args(arguments)
    status = 0
    for path in options.files:
        try:
            golden = opened(path)
        except UnknownConfigError as error:
            print(f"{path}: {error}", file=sys.stderr)
            status = 2
            continue
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            print(f"{path} is no golden file: {error}", file=sys.stderr)
            status = 2
            continue
        print(f"{golden.path.name}: {golden.card.name}")
        verdicts = []
        for frame, verdict in check_file(golden, torch.device(options.device)):
            print(f"  f{frame} {verdict.line()}", flush=True)
            verdicts.append(verdict)
        print(f"  {conclusion(verdicts)}")
        status = status or int(not all(verdict.passed for verdict in verdicts))
    return status


if __name__ == "__main__":
    sys.exit(main())
