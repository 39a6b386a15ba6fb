"""The processes that do the steps of a sweep, and what they say."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
import subprocess
import sys
from types import TracebackType
from typing import Any

from quant_llm_ros.report.measure import Progress

_STEP = "quant_llm_ros.cli.sweep_step"  # by name: it may use rooms that this one may not
_LOG_LINES = 3
_CLEARING_S = 20.0  # for a process that was interrupted to remove what it has half written


class StepError(Exception):
    """A step's process said what went wrong, or died."""


class Steps:
    """A process that does steps, one after the other; after one that failed it is another one.

    What the steps of one process have in common, such as the checkpoint, is read once.
    """

    def __init__(self) -> None:
        """Begin with no process: it is started for the first step."""
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Steps:
        """Give itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        self._end(interrupt=error is not None)

    def run(self, job: dict[str, Any], log: Path, progress: Progress) -> dict[str, Any]:
        """Do one step.

        Args:
            job: What ``worker`` is to do.
            log: File that what it prints is appended to.
            progress: Told what it says about stages.

        Returns:
            Its result.

        Raises:
            StepError: It said an error, or its process ended without a result.
        """
        process = self._started(log)
        assert process.stdin and process.stdout
        try:
            with contextlib.suppress(BrokenPipeError):  # it died; its log says of what
                process.stdin.write(json.dumps({**job, "log": str(log)}) + "\n")
                process.stdin.flush()
            for line in process.stdout:
                said = json.loads(line)
                if "result" in said:
                    result: dict[str, Any] = said["result"]
                    return result
                if "error" in said:
                    self._end()
                    raise StepError(said["error"])
                progress(said["stage"], said["fraction"])
        except StepError:
            raise
        except BaseException:
            self._end(interrupt=True)
            raise
        self._end()
        last = " | ".join(log.read_text(encoding="utf-8").splitlines()[-_LOG_LINES:])
        how = (
            f"was ended by signal {-process.returncode} (9: most often out of memory)"
            if process.returncode < 0
            else f"ended with status {process.returncode}"
        )
        raise StepError(f"the process of step {job['step']} {how}; {log.name}: {last or 'empty'}")

    def _started(self, log: Path) -> subprocess.Popen[str]:
        if self._process is None:
            with log.open("a", encoding="utf-8") as errors:
                self._process = subprocess.Popen(
                    _command(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                )
        return self._process

    def _end(self, *, interrupt: bool = False) -> None:
        """Let the process end; one that is interrupted removes what it has half written."""
        process, self._process = self._process, None
        if process is None:
            return
        if interrupt:
            process.terminate()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.communicate(timeout=_CLEARING_S)
        except BaseException as error:
            process.kill()
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise


def _command() -> list[str]:
    return [sys.executable, "-m", _STEP]
