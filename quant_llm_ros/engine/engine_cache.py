"""Compiled engines in the folder of their bundle: ``engines/<key>/engine.plan`` and its record.

An engine fits one TensorRT version, one kind of GPU and one model, so these are its key, together
with the plugins that are in it, if any. For each computer a bundle has one engine, the one that
was built last: with plugins or without. It is not among the hashed files of the bundle, which
stays the same on every computer. An engine appears whole or not at all, and what a killed build
left behind is removed by the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import os
from pathlib import Path
import shutil
from typing import Any

import yaml

from quant_llm_ros.engine.bundle import Bundle, file_sha256, MODEL, MODEL_DATA
from quant_llm_ros.engine.tensorrt_api import Profile
from quant_llm_ros.errors import EngineFileError

FOLDER = "engines"
PLAN = "engine.plan"
RECORD = "engine.yaml"
FORMAT_VERSION = 1
_PART = ".part-"
PART_GRAPH = f"{_PART}graph"


@dataclasses.dataclass(frozen=True)
class EngineKey:
    """What an engine is made for; with another of these it must be made again.

    Attributes:
        runtime: ``tensorrt`` or ``tensorrt_rtx``.
        version: Full version of it.
        sm: Compute capability of the GPU as a number: 87 for 8.7.
        model_sha256: Hash of the graph and its weights.
        plugins: Digest of the plugins in it; empty without.
    """

    runtime: str
    version: str
    sm: int
    model_sha256: str
    plugins: str = ""

    @property
    def folder(self) -> str:
        """Name of the engine's folder."""
        plugins = f"-plugins-{self.plugins[:12]}" if self.plugins else ""
        return f"{self.runtime}-{self.version}-sm{self.sm}-{self.model_sha256[:12]}{plugins}"


@dataclasses.dataclass(frozen=True)
class StoredEngine:
    """An engine on disk.

    Attributes:
        path: Its folder.
        key: What it is made for.
        profiles: Sizes of a pass that it has kernels for.
        plan_sha256: Hash of the plan.
        plan_bytes: Size of the plan.
        created: When it was compiled, ISO 8601.
        figures: What was measured meanwhile, by name.
    """

    path: Path
    key: EngineKey
    profiles: tuple[Profile, ...]
    plan_sha256: str
    plan_bytes: int
    created: str
    figures: dict[str, float]

    @property
    def plan(self) -> Path:
        """The compiled engine."""
        return self.path / PLAN


def model_sha256(bundle: Bundle) -> str:
    """Hash of a bundle's graph together with its weights, which lie in a file of their own."""
    parts = [bundle.files[name].sha256 for name in (MODEL, MODEL_DATA)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def find(bundle: Bundle, key: EngineKey) -> StoredEngine:
    """Find the engine of a bundle and check it.

    Raises:
        EngineFileError: There is none for this key, or it is damaged; says which, and what to do.
    """
    path = bundle.path / FOLDER / key.folder
    build = f"run `quant_llm build-engine {bundle.path}` on this computer"
    if not path.is_dir():
        raise EngineFileError(
            f"{bundle.path} has no engine for this computer{_others(bundle, key)}; {build}"
        )
    stored = read(path)
    if stored.key != key:
        raise EngineFileError(f"{path} was not made for what its name says; {build}")
    try:
        damaged = (
            stored.plan.stat().st_size != stored.plan_bytes
            or file_sha256(stored.plan) != stored.plan_sha256
        )
    except OSError as error:
        raise EngineFileError(f"{stored.plan}: {error.strerror}; {build}") from error
    if damaged:
        raise EngineFileError(
            f"{stored.plan} is damaged: it is not what {RECORD} describes; {build}"
        )
    return stored


def variants(bundle: Bundle, key: EngineKey) -> list[EngineKey]:
    """Keys of the engines that differ from a key in nothing but the plugins, those without first.

    Args:
        bundle: Where to look.
        key: What the engines are made for, its plugins aside.
    """
    plain = dataclasses.replace(key, plugins="")
    found = []
    for path in sorted((bundle.path / FOLDER).glob(f"{plain.folder}*")):
        with contextlib.suppress(EngineFileError):
            other = read(path).key
            if dataclasses.replace(other, plugins="") == plain and other.folder == path.name:
                found.append(other)
    return found


def read(path: Path) -> StoredEngine:
    """Read the record of an engine, without looking at the plan.

    Raises:
        EngineFileError: It is missing or malformed.
    """
    record = path / RECORD
    try:
        fields = yaml.safe_load(record.read_text(encoding="utf-8"))
        if fields["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version {fields['format_version']}")
        key = fields["key"]
        return StoredEngine(
            path=path,
            key=EngineKey(
                runtime=str(key["runtime"]),
                version=str(key["version"]),
                sm=int(key["sm"]),
                model_sha256=str(key["model_sha256"]),
                plugins=str(key.get("plugins", "")),
            ),
            profiles=tuple(
                {str(name): _three(sizes) for name, sizes in profile.items()}
                for profile in fields["profiles"]
            ),
            plan_sha256=str(fields["plan"]["sha256"]),
            plan_bytes=int(fields["plan"]["bytes"]),
            created=str(fields["created"]),
            figures={str(name): float(value) for name, value in fields["figures"].items()},
        )
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise EngineFileError(
            f"{record} cannot be read ({reason}); run `quant_llm build-engine "
            f"{path.parent.parent}` on this computer"
        ) from error


def store(
    bundle: Bundle,
    key: EngineKey,
    plan: Any,
    profiles: Sequence[Profile],
    figures: dict[str, float],
) -> StoredEngine:
    """Write an engine into its bundle, in place of an older one of the same key.

    Args:
        bundle: Its bundle.
        key: What it is made for.
        plan: The compiled engine, a buffer.
        profiles: Sizes of a pass that it has kernels for.
        figures: What was measured while it was built.

    Raises:
        EngineFileError: The folder cannot be written.
    """
    folder = bundle.path / FOLDER
    path, part = folder / key.folder, folder / f"{_PART}{key.folder}"
    data = memoryview(plan)
    sha256 = hashlib.sha256(data).hexdigest()
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    record = {
        "format_version": FORMAT_VERSION,
        "key": dataclasses.asdict(key),
        "profiles": [
            {name: list(sizes) for name, sizes in profile.items()} for profile in profiles
        ],
        "plan": {"sha256": sha256, "bytes": data.nbytes},
        "created": created,
        "figures": figures,
    }
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _write(part / PLAN, data)
        _write(part / RECORD, yaml.safe_dump(record, sort_keys=False).encode())
        if path.exists():
            # Renamed out of the way first: a folder cannot replace one that is not empty.
            old = folder / f"{_PART}old-{key.folder}"
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        part.rename(path)
        for other in variants(bundle, key):
            if other != key:
                shutil.rmtree(folder / other.folder)
        sweep(bundle)
    except OSError as error:
        raise EngineFileError(
            f"cannot write the engine to {path}: {error.strerror or error}; make room or give "
            f"yourself the right to write there"
        ) from error
    return read(path)


def timing_cache(bundle: Bundle, key: EngineKey) -> Path:
    """Where the measurements of earlier builds lie: of the same TensorRT and GPU, any model."""
    return bundle.path / FOLDER / f"timing-{key.runtime}-{key.version}-sm{key.sm}.cache"


def replace(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    part = path.with_name(f"{_PART}{path.name}")
    _write(part, content)
    part.rename(path)


def sweep(bundle: Bundle) -> None:
    """Remove what a killed build has left behind."""
    for path in (bundle.path / FOLDER).glob(f"{_PART}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(bundle: Bundle) -> Iterator[None]:
    """Keep other builds out of a bundle; the lock ends with the process, however that ends.

    Raises:
        EngineFileError: Another build is under way, or the folder cannot be written.
    """
    folder = bundle.path / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise EngineFileError(
            f"cannot write to {folder}: {error.strerror}; copy the bundle to a place where you may"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        sweep(bundle)
        yield
    except BlockingIOError:
        raise EngineFileError(
            f"another build writes to {folder}; wait until it has ended"
        ) from None
    finally:
        os.close(lock)


def _others(bundle: Bundle, key: EngineKey) -> str:
    """Say what engines there are, and why none fits."""
    reasons = []
    for record in sorted((bundle.path / FOLDER).glob(f"*/{RECORD}")):
        if record.parent.name.startswith(_PART):
            continue
        try:
            other = read(record.parent).key
        except EngineFileError:
            continue
        differences = [
            f"{what} {theirs}, here {ours}"
            for what, theirs, ours in (
                ("runtime", other.runtime, key.runtime),
                ("TensorRT", other.version, key.version),
                ("GPU", f"SM{other.sm}", f"SM{key.sm}"),
                ("model", other.model_sha256[:12], key.model_sha256[:12]),
                ("plugins", other.plugins[:12] or "none", key.plugins[:12] or "none"),
            )
            if theirs != ours
        ]
        reasons.append(f"{record.parent.name} is for {', '.join(differences)}")
    return f" ({'; '.join(reasons)})" if reasons else ""


def _write(path: Path, content: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _three(values: Any) -> tuple[int, int, int]:
    least, typical, most = (int(value) for value in values)
    return least, typical, most
