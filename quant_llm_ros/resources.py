"""Where the package's data files (``config/…``, ``launch/…``) lie."""

from __future__ import annotations

from collections.abc import Iterator
import pathlib
import sys

PACKAGE_NAME = "quant_llm_ros"


def share_path(relative: str) -> pathlib.Path:
    """Find a data file or folder that is shipped with the package.

    Looks first into the source tree (a checkout or an editable install), then into the ROS 2
    package's share folder, then into that of the Python environment.

    Args:
        relative: Path below the share folder, for example ``config/skills/service_robot.yaml``.

    Returns:
        The absolute path of the existing file or folder.

    Raises:
        FileNotFoundError: If it is in none of the places; the message names them all.
    """
    looked_at = []
    for root in _share_roots():
        candidate = root / relative
        if candidate.exists():
            return candidate
        looked_at.append(str(candidate))
    raise FileNotFoundError(
        f"{relative}: not among the data files of {PACKAGE_NAME}; looked for "
        f"{', '.join(looked_at)}; build and install the package again or give the file's own path"
    )


def _share_roots() -> Iterator[pathlib.Path]:
    """Yield the folders that may hold the data files, best first."""
    source_root = pathlib.Path(__file__).resolve().parents[1]
    if (source_root / "package.xml").is_file():
        yield source_root
    ament_share = _ament_share()
    if ament_share is not None:
        yield ament_share
    yield pathlib.Path(sys.prefix) / "share" / PACKAGE_NAME


def _ament_share() -> pathlib.Path | None:
    """Return the share folder in the sourced ROS 2 workspaces, or None without ROS 2."""
    try:
        # Imported here: the offline tools also run where no ROS 2 is installed.
        from ament_index_python.packages import get_package_share_directory
    except ImportError:
        return None
    try:
        return pathlib.Path(get_package_share_directory(PACKAGE_NAME))
    except (LookupError, OSError):  # not in a sourced workspace, or none is sourced
        return None
