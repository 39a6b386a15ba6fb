"""A folder that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
import shutil

from quant_llm_ros.engine.bundle import DESCRIPTION
from quant_llm_ros.errors import BundleError


@contextlib.contextmanager
def staged_folder(output: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``output`` and, if all goes well, rename it to ``output``.

    An older bundle at ``output`` is replaced. On any exception, Ctrl-C included, the temporary
    folder is removed. What a killed build left behind is removed by the next one.

    Args:
        output: Where the folder shall be.

    Yields:
        The temporary folder, on the same file system.

    Raises:
        BundleError: ``output`` is in use by something that is no bundle, or cannot be written.
    """
    output = Path(os.path.abspath(output))
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise BundleError(f"{output} exists and is not a folder; choose another --output")
    if output.is_dir() and any(output.iterdir()) and not (output / DESCRIPTION).exists():
        raise BundleError(
            f"{output} exists and is no bundle, it would be overwritten; choose another --output"
        )
    prefix = f".{output.name}.building-"
    staged = output.with_name(f"{prefix}{os.getpid()}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(output.parent, prefix)
        staged.mkdir()
        try:
            yield staged
            _replace(staged, output)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        # The file tells whether it was the bundle that could not be written or a source read.
        where = f" ({error.filename})" if error.filename else ""
        raise BundleError(f"cannot write the bundle {output}: {reason}{where}") from error


def _remove_stale(parent: Path, prefix: str) -> None:
    """Remove temporary folders whose process is gone."""
    for path in parent.glob(f"{prefix}*"):
        number = path.name[len(prefix) :].split("-")[0]
        if number.isdigit() and (int(number) == os.getpid() or not _alive(int(number))):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    """Whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _replace(staged: Path, output: Path) -> None:
    """Put a finished folder in its place; the older one is gone only when the new one is there."""
    for path in staged.iterdir():
        _sync(path)
    _sync(staged)
    old = staged.with_name(f"{staged.name}-old")
    if output.exists():
        output.rename(old)
    try:
        staged.rename(output)
    except BaseException:
        if old.exists():
            old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)
    _sync(output.parent)


def _sync(path: Path) -> None:
    """Make sure that a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
