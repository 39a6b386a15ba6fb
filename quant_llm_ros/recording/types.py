"""The message types of ``quant_llm_msgs`` for rosbags, which reads and writes bags without ROS."""

from __future__ import annotations

import os
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

from quant_llm_ros.errors import RecordingError

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

PACKAGE = "quant_llm_msgs"
DECISION = f"{PACKAGE}/msg/Decision"
BUNDLE = f"{PACKAGE}/msg/BundleInfo"
KNOWN_NAMES = f"{PACKAGE}/msg/KnownNames"


def typestore() -> Typestore:
    """Give the types of ROS 2 with those of this package's own .msg files.

    Bags of Humble have no definitions of types in them; those of later distributions bring their
    own, which count then.

    Raises:
        RecordingError: rosbags or the .msg files are not there.
    """
    try:
        from rosbags.typesys import get_types_from_msg, get_typestore, Stores
    except ImportError as error:
        raise RecordingError(
            "bags are read with the Python package rosbags, which is not installed: "
            "pip install rosbags"
        ) from error
    # The types that decisions need have been the same since Humble.
    store = get_typestore(Stores.ROS2_HUMBLE)
    types: dict[str, Any] = {}
    for file in sorted(_folder().glob("*.msg")):
        types.update(get_types_from_msg(file.read_text(), f"{PACKAGE}/msg/{file.stem}"))
    store.register(types)
    return store


def _folder() -> Path:
    """Find the .msg files: in the source tree, in a sourced workspace, or beside this Python."""
    prefixes = filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    folders = [
        Path(__file__).resolve().parents[2] / PACKAGE / "msg",
        *(Path(prefix) / "share" / PACKAGE / "msg" for prefix in (*prefixes, sys.prefix)),
    ]
    for folder in folders:
        if (folder / "Decision.msg").is_file():
            return folder
    raise RecordingError(
        f"the message files of {PACKAGE} are not there (looked into "
        f"{', '.join(map(str, folders))}); build the package and source the workspace"
    )
