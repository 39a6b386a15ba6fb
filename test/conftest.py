"""What all tests share: the ROS 2 environment, the default bundle, running programs."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
import subprocess
import sys
import tempfile
from typing import TextIO

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
DEFAULT_BUNDLE = REPOSITORY / "bundles" / "default"

# On Linux, DDS domains above 101 use ports that the kernel also gives to outgoing connections.
HIGHEST_DOMAIN_ID = 101


def environment_of_setup() -> dict[str, str]:
    """Return the environment that tools/env.sh makes, so that tests and users share one."""
    script = f'source "{REPOSITORY}/tools/env.sh" && exec env -0'
    printed = subprocess.run(["bash", "-c", script], check=True, stdout=subprocess.PIPE).stdout
    pairs = (entry.split("=", 1) for entry in printed.decode().split("\0") if entry)
    return dict(pairs)


def reserve_domain_id() -> tuple[int, TextIO]:
    """Reserve a ROS domain that no other test process of this user has.

    Returns:
        The domain, and the open file whose lock holds the reservation until it is closed.
    """
    folder = Path(tempfile.gettempdir()) / f"quant_llm_ros_domains_{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for domain_id in range(1, HIGHEST_DOMAIN_ID + 1):
        lock = (folder / f"{domain_id}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            return domain_id, lock
    raise RuntimeError(f"all {HIGHEST_DOMAIN_ID} ROS domains are in use by tests of this user")


def pytest_configure(config: pytest.Config) -> None:
    """Give this process, before it imports rclpy, an isolated ROS 2 environment."""
    # With a robot's own ROS 2 there is no .venv, and its sourced environment is the right one.
    if Path(sys.prefix) == REPOSITORY / ".venv":
        os.environ.update(environment_of_setup())
    # Triton looks at it when it is imported, which other libraries do too: its kernels are run by
    # its interpreter (test_kernels.py).
    os.environ["TRITON_INTERPRET"] = "1"
    domain_id, lock = reserve_domain_id()
    config.add_cleanup(lock.close)
    logs = contextlib.ExitStack()
    config.add_cleanup(logs.close)
    os.environ["ROS_DOMAIN_ID"] = str(domain_id)
    os.environ["ROS_LOG_DIR"] = logs.enter_context(tempfile.TemporaryDirectory("_ros_log"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root folder of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def bundle_path() -> Path:
    """Folder of the default bundle; a test that asks for it carries the marker ``bundle``."""
    if not (DEFAULT_BUNDLE / "bundle.yaml").is_file():
        pytest.fail(f"{DEFAULT_BUNDLE} does not exist; build it with `make bundle`", pytrace=False)
    return DEFAULT_BUNDLE


@pytest.fixture(scope="session")
def ros_domain_id() -> int:
    """ROS domain of this test process: no other test process has the same."""
    return int(os.environ["ROS_DOMAIN_ID"])


@pytest.fixture
def ros_env() -> dict[str, str]:
    """Environment for ROS 2 programs that a test starts: same domain as this process."""
    return dict(os.environ)


@pytest.fixture(scope="session")
def scripts() -> Path:
    """Folder of the installed programs (``quant_llm``, ``understanding_node``, ``demo``)."""
    return Path(sys.executable).parent
