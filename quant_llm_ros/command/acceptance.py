"""The evaluation that a bundle carries: what a node's ``min_accuracy`` looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import json
import os
from pathlib import Path
from typing import Any

from quant_llm_ros.command.calibration import calibrated, calibration_error, fit_temperature
from quant_llm_ros.command.decision import Status
from quant_llm_ros.command.evaluation import decide_alone, evaluate, load_dataset, Verdict
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.engine.bundle import add_figures, Bundle
from quant_llm_ros.errors import BundleError

REPORT = Path("report") / "evaluation"


def accept(
    bundle: Path,
    dataset: str | os.PathLike[str],
    *,
    unquantized: Path | None = None,
    progress: Callable[[float], None],
    opened: Callable[[Path], Understander] | None = None,
) -> Bundle:
    """Evaluate a bundle and write into it how good it is.

    Its figures become ``accuracy`` (share of rows with everything right, no threshold of
    confidence), ``calibration_error`` (of the calibrated confidence) and, with the unquantized
    model, ``accuracy_unquantized``. The temperature of its confidence is fitted, and
    ``report/evaluation.json`` and ``.md`` hold the classes and the confusions.

    Args:
        bundle: Folder of the bundle.
        dataset: Sentences with their meaning; see ``evaluation.load_dataset``.
        unquantized: Folder of the same model in FP32, or None.
        progress: Told the share that is done.
        opened: Opens a bundle, with no threshold; where it is built, that need not be the runtime
            that serves it. None: as it is served.

    Returns:
        The bundle with its figures.
    """
    rows = load_dataset(dataset)
    models = [path for path in (bundle, unquantized) if path is not None]
    done = 0
    results: list[tuple[dict[str, Any], list[Verdict]]] = []

    def note(verdict: Verdict) -> None:
        nonlocal done
        done += 1
        results[-1][1].append(verdict)
        progress(done / (len(rows) * len(models)))

    for path in models:
        understander = opened(path) if opened else Understander.open(path, min_confidence=0.0)
        try:
            results.append(({}, []))
            figures = evaluate(
                rows, decide_alone(understander), understander.skills, on_verdict=note
            )
            results[-1][0].update(figures)
        finally:
            understander.close()
    figures, verdicts = results[0]
    accepted = [v for v in verdicts if v.decision.status is Status.ACCEPTED]
    right = [v.right for v in accepted]
    raw = [v.decision.confidence for v in accepted]
    temperature = fit_temperature(raw, right)
    error = calibration_error([calibrated(p, temperature) for p in raw], right)
    kept: dict[str, float] = {"accuracy": figures["right"]}
    if error is not None:
        kept["calibration_error"] = error
    if unquantized is not None:
        kept["accuracy_unquantized"] = results[1][0]["right"]
    head = {"dataset": Path(dataset).name, "temperature": temperature, **kept}
    _write_report(bundle, {**head, "quantized": figures})
    return add_figures(bundle, kept, temperature=temperature)


def require_accuracy(bundle: Bundle, least: float) -> None:
    """Refuse a bundle that was measured to be worse, or not at all.

    Args:
        bundle: The bundle.
        least: Share of its own evaluation that it must have got right, 0 to 1; 0: any will do.

    Raises:
        BundleError: It is not good enough, or nobody knows.
    """
    if least <= 0.0:
        return
    accuracy = bundle.figures.get("accuracy")
    if accuracy is None:
        raise BundleError(
            f"{bundle.path}: was never evaluated, but min_accuracy is {least:g}; build it by a "
            "recipe with `accuracy`, or set min_accuracy to 0"
        )
    if accuracy < least:
        raise BundleError(
            f"{bundle.path}: got {accuracy:.1%} of its own evaluation right, less than "
            f"min_accuracy, {least:.1%}; use a better bundle or lower min_accuracy"
        )


def _write_report(bundle: Path, report: Mapping[str, Any]) -> None:
    path = bundle / REPORT
    path.parent.mkdir(exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    figures = report["quantized"]
    lines = [
        f"# Evaluation on {report['dataset']}, {figures['n']} sentences",
        "",
        f"Everything right: {report['accuracy']:.1%}"
        + (
            f"; unquantized {report['accuracy_unquantized']:.1%}"
            if "accuracy_unquantized" in report
            else ""
        ),
        "",
        "| class | sentences | right |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {k} | {c['n']} | {c['right']} |" for k, c in figures["classes"].items()]
    lines += ["", "What was mistaken for what:", "", "| meant | decided | times |"]
    lines += ["| --- | --- | --- |"]
    lines += [f"| {c['meant']} | {c['decided']} | {c['n']} |" for c in figures["confusion"]]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
