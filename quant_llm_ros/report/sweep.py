"""A table over recipes: each is built, measured and removed again, in processes of its own.

A step that crashes costs its row alone, and the memory of serving is not that of building. Rows
are kept as files, so a sweep that was interrupted goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import datetime
import json
import os
from pathlib import Path
import platform
import shutil
import subprocess
import sys
import time
from typing import Any

from quant_llm_ros.engine.bundle import DESCRIPTION
from quant_llm_ros.errors import QuantLlmError, RecipeError
from quant_llm_ros.report.measure import Progress, What
from quant_llm_ros.report.sources import fingerprint
from quant_llm_ros.report.table import markdown

SWEEP = "sweep.json"
TABLE = "table.md"
ROWS = "rows"
_BUILD_SHARE = 0.5
_STEP = "quant_llm_ros.cli.sweep_step"  # by name: it may use rooms that this one may not
_LOG_LINES = 3


class StepError(Exception):
    """A step's process said what went wrong, or died."""


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
        for recipe, hashed in zip(recipes, prints, strict=True):
            row = self._finished(recipe, hashed)
            if row is None:
                row = self._make(recipe, hashed, lambda *said, r=recipe: progress(r, *said))
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

    def _make(self, recipe: Path, hashed: str, progress: Progress) -> dict[str, Any]:
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
                row["build"] = run_step(
                    {"step": "build", **job},
                    log,
                    lambda stage, part: progress(stage, part * _BUILD_SHARE),
                )
                _write(self._file(recipe), row)
            if row["build"]["target"] == "ort":
                row["measured"] = run_step(
                    {
                        "step": "measure",
                        "bundle": str(bundle),
                        "what": dataclasses.asdict(self.what),
                    },
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


def run_step(job: dict[str, Any], log: Path, progress: Progress) -> dict[str, Any]:
    """Run one step in a process of its own.

    Args:
        job: What ``worker`` is to do.
        log: File that what it prints is appended to.
        progress: Told what it says about stages.

    Returns:
        Its result.

    Raises:
        StepError: It said an error, or its process ended without a result.
    """
    with (
        log.open("a", encoding="utf-8") as errors,
        subprocess.Popen(
            _command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdin and process.stdout
        try:
            with contextlib.suppress(BrokenPipeError):  # it died; its log says of what
                process.stdin.write(json.dumps(job))
                process.stdin.close()
            for line in process.stdout:
                said = json.loads(line)
                if "result" in said:
                    result: dict[str, Any] = said["result"]
                    return result
                if "error" in said:
                    raise StepError(said["error"])
                progress(said["stage"], said["fraction"])
        except BaseException:
            process.kill()
            raise
    last = " | ".join(log.read_text(encoding="utf-8").splitlines()[-_LOG_LINES:])
    how = (
        f"was ended by signal {-process.returncode} (9: most often out of memory)"
        if process.returncode < 0
        else f"ended with status {process.returncode}"
    )
    raise StepError(f"the process of step {job['step']} {how}; {log.name}: {last or 'empty'}")


def _command() -> list[str]:
    return [sys.executable, "-m", _STEP]


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
