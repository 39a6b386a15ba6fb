"""Verdicts: what the self-test found on a device, kept in the bundle's folder.

A verdict belongs to one bundle, runtime, provider and device, which its file name and its content
say. It is not among the bundle's hashed files: the bundle stays the same on every device.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import os
from pathlib import Path
import re
from typing import Any

import yaml

from quant_llm_ros.engine.bundle import Bundle
from quant_llm_ros.engine.protocol import EngineInfo
from quant_llm_ros.errors import BundleError, EngineError

FORMAT_VERSION = 1
FOLDER = "verdicts"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a self-test found.

    Attributes:
        created: When it ended, ISO 8601 with a time zone.
        generator: Program that wrote it.
        bundle_sha256: Hash of the bundle that was tested, ``Bundle.sha256``.
        runtime: Runtime and its version.
        provider: Provider in use.
        device: What the machine is, see ``device.describe_device``; at least its ``name``.
        passed: Nothing was wrong.
        problems: What was wrong, one sentence each.
        figures: What was measured, by group and name.
    """

    created: str
    generator: str
    bundle_sha256: str
    runtime: str
    provider: str
    device: Mapping[str, str]
    passed: bool
    problems: tuple[str, ...]
    figures: Mapping[str, Mapping[str, float]]

    def __str__(self) -> str:
        """Say it in a line, for a person."""
        found = "passed" if self.passed else f"FAILED: {'; '.join(self.problems)}"
        decisions = self.figures.get("decisions", {})
        if decisions.get("checked"):
            found += f", {decisions['equal']:g} of {decisions['checked']:g} decisions equal"
        p50 = self.figures.get("latency_ms", {}).get("text_to_decision_p50")
        if p50 is not None:
            found += f", text to decision p50 {p50:g} ms"
        return f"{self.device['name']}, {self.runtime}, {self.provider}: {found}"

    def save(self, folder: Path) -> Path:
        """Write the verdict into a bundle's folder, in place of an older one of the same key.

        Returns:
            Its file.

        Raises:
            BundleError: It cannot be written there.
        """
        path = path_of(folder, self.runtime, self.provider, self.device["name"])
        fields = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        fields["problems"] = list(self.problems)
        staged = path.with_suffix(".part")
        try:
            path.parent.mkdir(exist_ok=True)
            text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
            staged.write_text(text, encoding="utf-8")
            os.replace(staged, path)
        except OSError as error:
            raise BundleError(
                f"the verdict cannot be written to {path}: {error.strerror}; make the bundle's "
                f"folder writable and run the self-test again"
            ) from error
        return path


def path_of(folder: Path, runtime: str, provider: str, device: str) -> Path:
    """Give the file of a verdict in a bundle's folder."""
    key = "-".join(
        re.sub(r"[^a-z0-9.]+", "_", part.lower()).strip("_") or "unknown"
        for part in (runtime, provider, device)
    )
    return folder / FOLDER / f"{key}.yaml"


def load_verdict(path: Path) -> Verdict:
    """Read a verdict.

    Raises:
        BundleError: The file is missing or malformed.
    """
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"{path} cannot be read ({reason}); delete it") from error
    wanted: dict[str, type] = {
        "created": str,
        "generator": str,
        "bundle_sha256": str,
        "runtime": str,
        "provider": str,
        "device": dict,
        "passed": bool,
        "problems": list,
        "figures": dict,
    }
    version = fields.get("format_version") if isinstance(fields, dict) else None
    wrong = [k for k, kind in wanted.items() if version and not isinstance(fields.get(k), kind)]
    if version != FORMAT_VERSION or wrong or "name" not in fields["device"]:
        raise BundleError(f"{path} is no verdict of this version; delete it")
    return Verdict(
        **{name: fields[name] for name in wanted if name != "problems"},
        problems=tuple(map(str, fields["problems"])),
    )


def verdicts_of(bundle: Bundle) -> list[Verdict]:
    """Read all verdicts in a bundle's folder about this bundle; malformed files are left out."""
    found = []
    for path in sorted((bundle.path / FOLDER).glob("*.yaml")):
        try:
            verdict = load_verdict(path)
        except BundleError:
            continue
        if verdict.bundle_sha256 == bundle.sha256:
            found.append(verdict)
    return found


def refuse_failed(bundle: Bundle, info: EngineInfo, device: str) -> None:
    """Refuse an engine that failed the whole self-test on this device.

    Args:
        bundle: The bundle.
        info: The engine's.
        device: As ``device.device_name`` gives it.

    Raises:
        EngineError: There is a verdict about it that says so.
    """
    for verdict in verdicts_of(bundle):
        same = (verdict.runtime, verdict.provider) == (info.runtime, info.provider)
        if same and verdict.device["name"] == device and not verdict.passed:
            path = path_of(bundle.path, info.runtime, info.provider, device)
            raise EngineError(
                f"{bundle.path}: {info.runtime} with {info.provider} failed its self-test here on "
                f"{verdict.created}: {'; '.join(verdict.problems)}. Serve another provider or "
                f"bundle; or, when the cause is gone, run `quant_llm selftest {bundle.path}` "
                f"again ({path} holds the verdict)"
            )


def plain(verdict: Verdict) -> dict[str, Any]:
    """Give a verdict as plain data, ready for JSON."""
    return {**dataclasses.asdict(verdict), "problems": list(verdict.problems)}
