"""A table over recipes: each is built, measured and removed again, in other processes.

A step that crashes costs its row alone, and the memory of serving is not that of building: each
bundle is measured in a process of its own. One process builds them, until a recipe fails, so that
the checkpoint is read and checked once. Rows are kept as files, so a sweep that was interrupted
goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import datetime
import json
import os
from pathlib import Path
import platform
import shutil
import time
from typing import Any

from quant_llm_ros.engine.bundle import DESCRIPTION
from quant_llm_ros.errors import QuantLlmError, RecipeError
from quant_llm_ros.report.measure import Progress, What
from quant_llm_ros.report.sources import fingerprint
from quant_llm_ros.report.steps import StepError, Steps
from quant_llm_ros.report.table import markdown

SWEEP = "sweep.json"
TABLE = "table.md"
ROWS = "rows"
_BUILD_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Where rows go, and what is measured.

    Attributes:
        folder: Of the sweep.
        what: What each bundle is measured on.
        skills: Skill registry that goes into the bundles.
        keep: Bundles stay in ``bundles/`` of the folder.
    """

    folder: Path
    what: What
    skills: Path
    keep: bool = False

    def run(
        self, recipes: Sequence[Path], progress: Callable[[Path, str, float], None]
    ) -> Iterator[dict[str, Any]]:
        """Make the rows of recipes; after each, the sweep's files hold all so far.

        A row that is there already, made from the same files by the same program, is kept; a
        failed one is tried again, and one that was interrupted goes on behind what was built.

        Args:
            recipes: Recipe files; the names of the files tell the rows apart.
            progress: Told about a recipe's stages.

        Yields:
            The row of each recipe, also where it failed.

        Raises:
            RecipeError: Two recipes have the same file name, or one cannot be read.
        """
        names = [recipe.stem for recipe in recipes]
        for name in names:
            if names.count(name) > 1:
                raise RecipeError(f"two recipes are called {name}; rename one of the files")
        prints = [fingerprint(recipe, self.what, self.skills) for recipe in recipes]
        (self.folder / ROWS).mkdir(parents=True, exist_ok=True)
        rows: list[dict[str, Any]] = []
        with Steps() as builder:
            for recipe, hashed in zip(recipes, prints, strict=True):
                row = self._finished(recipe, hashed)
                if row is None:
                    row = self._make(
                        builder, recipe, hashed, lambda *said, r=recipe: progress(r, *said)
                    )
                rows.append(row)
                self._write_table(rows)
                yield row

    def _file(self, recipe: Path) -> Path:
        return self.folder / ROWS / f"{recipe.stem}.json"

    def _bundle(self, recipe: Path) -> Path:
        return self.folder / "bundles" / recipe.stem

    def _before(self, recipe: Path, hashed: str) -> dict[str, Any] | None:
        """Give the row that is there, of the same sources and with no error; maybe half of one."""
        try:
            row = json.loads(self._file(recipe).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        same = isinstance(row, dict) and row.get("sources_sha256") == hashed
        return row if same and row.get("error") is None else None

    def _finished(self, recipe: Path, hashed: str) -> dict[str, Any] | None:
        row = self._before(recipe, hashed)
        # The time of the whole is what is written last.
        return {**row, "reused": True} if row and "seconds" in row else None

    def _built(self, recipe: Path, hashed: str) -> dict[str, Any] | None:
        """Give the figures of a bundle that was built before the sweep was interrupted."""
        row = self._before(recipe, hashed)
        there = (self._bundle(recipe) / DESCRIPTION).is_file()
        return row["build"] if row and there and isinstance(row.get("build"), dict) else None

    def _make(
        self, builder: Steps, recipe: Path, hashed: str, progress: Progress
    ) -> dict[str, Any]:
        """Build and measure; what goes wrong becomes part of the row."""
        started = time.perf_counter()
        bundle = self._bundle(recipe)
        log = self.folder / ROWS / f"{recipe.stem}.log"
        row: dict[str, Any] = {
            "name": recipe.stem,
            "recipe": recipe.read_text(encoding="utf-8"),
            "sources_sha256": hashed,
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "error": None,
            "build": self._built(recipe, hashed),
            "measured": None,
        }
        log.unlink(missing_ok=True)
        bundle.parent.mkdir(parents=True, exist_ok=True)
        try:
            job = {"recipe": str(recipe), "bundle": str(bundle), "skills": str(self.skills)}
            if row["build"] is None:
                row["build"] = builder.run(
                    {"step": "build", **job},
                    log,
                    lambda stage, part: progress(stage, part * _BUILD_SHARE),
                )
                _write(self._file(recipe), row)
            if row["build"]["target"] == "ort":
                what = dataclasses.asdict(self.what)
                with Steps() as measuring:
                    row["measured"] = measuring.run(
                        {"step": "measure", "bundle": str(bundle), "what": what},
                        log,
                        lambda stage, part: progress(
                            stage, _BUILD_SHARE + part * (1.0 - _BUILD_SHARE)
                        ),
                    )
        except StepError as error:
            row["error"] = str(error)
        if log.is_file() and not log.stat().st_size:
            log.unlink()
        row["seconds"] = round(time.perf_counter() - started, 1)
        _write(self._file(recipe), row)
        if not self.keep:  # and not before: an interrupted sweep goes on with the bundle
            shutil.rmtree(bundle, ignore_errors=True)
        return row

    def _write_table(self, rows: Sequence[dict[str, Any]]) -> None:
        document = {
            "machine": machine(),
            "what": {
                **dataclasses.asdict(self.what),
                "datasets": [Path(name).name for name in self.what.datasets],
                "text": Path(self.what.text).name if self.what.text else None,
            },
            "rows": [{k: v for k, v in row.items() if k != "reused"} for row in rows],
        }
        _write(self.folder / SWEEP, document)
        text = markdown(document)
        (self.folder / TABLE).write_text(text, encoding="utf-8")


def machine() -> dict[str, Any]:
    """Say what the figures were measured on."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
        # Boards with a device tree say what they are: «NVIDIA Jetson AGX Orin Developer Kit».
        board = Path("/proc/device-tree/model")
        model = board.read_text(encoding="utf-8").strip("\0\n") if board.is_file() else model
    except OSError:
        pass  # not Linux: the name that Python knows is all there is
    return {"model": model, "cores": os.cpu_count(), "architecture": platform.machine()}


def load(folder: Path) -> dict[str, Any]:
    """Read what a sweep wrote.

    Raises:
        QuantLlmError: There is no sweep, or it is damaged.
    """
    path = folder / SWEEP
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise QuantLlmError(
            f"{path}: {error.strerror}; run `quant_llm sweep RECIPE... --output {folder}` first"
        ) from error
    except ValueError as error:
        raise QuantLlmError(f"{path} is damaged ({error}); run the sweep again") from error
    if not isinstance(document, dict) or not isinstance(document.get("rows"), list):
        raise QuantLlmError(f"{path} holds no sweep; run the sweep again")
    return document


def _write(path: Path, data: dict[str, Any]) -> None:
    """Write JSON so that a reader never sees half of it."""
    part = path.with_name(f"{path.name}.part")
    text = json.dumps(data, indent=1, ensure_ascii=False)
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)
