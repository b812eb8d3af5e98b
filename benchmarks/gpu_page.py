"""Reports of a GPU run: a line per piece, and the dated page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

KINDS = ("self-check", "parity", "agreement", "benchmark")


def summary(kind: str, result: dict[str, Any]) -> str:
    """A short summary of one piece."""
    for reason in ("error", "skipped"):
        if reason in result:
            return f"{reason}: {result[reason]}"
    if kind == "self-check":
        return f"{result['execution']}, {result['agreement']}"
    if kind == "parity":
        return f"{result['conclusion']}; worst {result['worst_error']:.1e}"
    if kind == "agreement":
        return ", ".join(f"{p} {result[p]['equal']:.2%} equal" for p in ("fp16", "bf16"))
    total = result["milliseconds"]["total"]
    return f"p50 {total['p50']:.1f} ms, p99 {total['p99']:.1f} ms"


def page(facts: dict[str, Any], every: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown."""
    lines = [f"# On {facts['device']['name']}, {facts['date']}\n"]
    lines += [f"- {name}: {value}" for name, value in facts["versions"].items()]
    lines.append(f"- golden files: {len(facts['golden_files'])}")
    for what in ("without_golden_file", "not_reached"):
        if facts[what]:
            lines.append(
                f"- {what.replace('_', ' ')}: {len(facts[what])} ({'; '.join(facts[what])})"
            )
    wrong = [line for kind in KINDS for r in every[kind] if (line := _wrong(kind, r))]
    lines += ["\n## Wrong\n", *wrong] if wrong else []
    lines += _table(
        "Self-check: the fastest execution that says what float32 says, with random weights",
        ("model", "execution", "agreement", "passed over"),
        [
            (r["piece"], r["execution"], r["agreement"], "; ".join(r["passed_over"]) or "none")
            for r in _finished(every["self-check"])
        ],
    )
    lines += _table(
        "Parity in float32, matrix units' rounding off",
        (
            "file",
            "passed",
            "comparisons",
            "only by measured rounding",
            "worst error / rms",
            "at",
            "labels equal",
        ),
        [
            (
                *(r["piece"], "yes" if r["passed"] else f"no: {len(r['failed'])}"),
                *(r["comparisons"], r["by_rounding"], f"{r['worst_error']:.1e}", r["worst_at"]),
                f"{r['labels_equal']:.4%}",
            )
            for r in _finished(every["parity"])
        ],
    )
    lines += _table(
        "Labels of half precision against float32, worst frame",
        ("file", "fp16", "fp16, occupied", "bf16", "bf16, occupied"),
        [
            (
                r["piece"],
                *(f"{r[p][k]:.3%}" for p in ("fp16", "bf16") for k in ("equal", "occupied_equal")),
            )
            for r in _finished(every["agreement"])
        ],
    )
    lines += _table(
        "Stream: decoded images on the host to labels on the host, ms",
        ("model and execution", "p50", "p90", "p99", "max", "network p50", "GMAC", "TFLOP/s", "MB"),
        [
            (
                r["piece"],
                *(f"{value:.2f}" for value in r["milliseconds"]["total"].values()),
                f"{r['milliseconds']['network']['p50']:.2f}",
                f"{r['gmac']['total']:.0f}",
                f"{r['network_tflops']:.2f}",
                f"{r['memory_mb'].get('allocator_peak', r['memory_mb']['process_peak']):.0f}",
            )
            for r in _finished(every["benchmark"])
        ],
    )
    return "\n".join(lines) + "\n"


def _wrong(kind: str, result: dict[str, Any]) -> str:
    """A line about a piece that has raised, was skipped or breaks the pass rule; "" otherwise."""
    reason = result.get("error") or result.get("skipped")
    if reason is None and not result.get("passed", True):
        reason = f"{len(result['failed'])} comparisons failed, the first: {result['failed'][0]}"
    return f"- {kind} {result['piece']}: {reason}" if reason else ""


def _finished(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in entries if "error" not in entry and "skipped" not in entry]


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    if not rows:
        return [f"\n## {title}\n", "Nothing was measured."]
    return [
        f"\n## {title}\n",
        "| " + " | ".join(head) + " |",
        "| --- |" + " ---: |" * (len(head) - 1),
        *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows),
    ]
