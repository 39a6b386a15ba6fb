"""Measure a bundle on the sets of test/data and on datasets of your own, as a Markdown table.

    python tools/accuracy_table.py --predictions build/accuracy huric_dev.jsonl

A set that has a registry beside it (``known_places.yaml``) is asked with that registry. Figures
are those of ``quant_llm evaluate``, one set after the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
from pathlib import Path
import sys

from quant_llm_ros.command.calibration import calibration_error
from quant_llm_ros.command.decision import Status
from quant_llm_ros.command.evaluation import decide_alone, evaluate, load_dataset, Verdict
from quant_llm_ros.command.stop_guard import StopGuard
from quant_llm_ros.command.understander import Understander
from quant_llm_ros.errors import QuantLlmError

OWN = Path(__file__).resolve().parents[1] / "test" / "data"
HEAD = (
    "set",
    "sentences",
    "skills in sequence",
    "everything exact",
    "right status",
    "accepted wrongly",
    "calibration error",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", default="bundles/default", help="(default: %(default)s)")
    parser.add_argument("--predictions", type=Path, metavar="DIR", help="write decisions there")
    parser.add_argument("datasets", nargs="*", type=Path, metavar="F.jsonl")
    arguments = parser.parse_args(argv)
    try:
        return measure(arguments.bundle, arguments.datasets, arguments.predictions)
    except (QuantLlmError, OSError) as error:
        print(f"accuracy_table: {error}", file=sys.stderr)
        return 2


def measure(bundle: str, datasets: Sequence[Path], predictions: Path | None) -> int:
    """Print one row for each set, and what all of them together say."""
    # All are read first: a mistake in the last one should not show after minutes.
    sets = {path: load_dataset(path) for path in [*sorted(OWN.glob("*.jsonl")), *datasets]}
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    accepted: list[Verdict] = []
    stops = taken = others = mistaken = 0
    for path, rows in sets.items():
        registry = path.with_suffix(".yaml")
        verdicts: list[Verdict] = []
        understander = Understander.open(bundle, registry if registry.exists() else None)
        try:
            decide, skills = decide_alone(understander), understander.skills
            figures = evaluate(rows, decide, skills, on_verdict=verdicts.append)
        finally:
            understander.close()
        guard = StopGuard(skills)
        for row in rows:
            is_stop, guarded = row.status is Status.STOP, guard(row.text)
            stops, taken = stops + is_stop, taken + (is_stop and guarded)
            others, mistaken = others + (not is_stop), mistaken + (guarded and not is_stop)
        accepted += [v for v in verdicts if v.decision.status is Status.ACCEPTED]
        error = figures["calibration_error"]
        shares = ("skills_exact", "all_exact", "status_exact", "accepted_wrongly")
        cells = [_percent(figures[name]) for name in shares]
        print(
            f"| {path.stem} | {len(rows)} | {' | '.join(cells)} | {_number(error)} |", flush=True
        )
        if predictions is not None:
            _write(predictions / path.name, verdicts)
    error = calibration_error(
        [v.decision.confidence for v in accepted], [v.right for v in accepted]
    )
    print(f"\nCalibration error of all {len(accepted)} accepted decisions: {_number(error)}.")
    print(
        f"The stop guard without the model: {taken} of {stops} stops, "
        f"{mistaken} of {others} other sentences."
    )
    return 0


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _write(path: Path, verdicts: Sequence[Verdict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for verdict in verdicts:
            line = {"id": verdict.row.id, "right": verdict.right, **verdict.decision.to_dict()}
            print(json.dumps(line, ensure_ascii=False), file=file)


if __name__ == "__main__":
    sys.exit(main())
