"""Where Linux lets the threads of a process run."""

from __future__ import annotations

from pathlib import Path
import re


def cores_of_tasks(process: int) -> dict[int, str]:
    """Give the cores of each thread of a process, by the thread's number, as Linux lists them."""
    found = {}
    for task in Path(f"/proc/{process}/task").iterdir():
        match = re.search(r"Cpus_allowed_list:\s*(\S+)", (task / "status").read_text())
        assert match is not None
        found[int(task.name)] = match[1]
    return found
