"""The parameters of the understanding node: types, ranges, descriptions, and when they may change.

A value that cannot be used never ends the node: one from a file or the command line is reported
and keeps the node from being configured until it is corrected; one that comes at run time is
refused with the reason.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from quant_llm_ros.command.pending import QueuePolicy
from quant_llm_ros.command.shortlist import COMMON, DEFAULT_SHORTLIST, LARGE
from quant_llm_ros.command.understander import DEFAULT_MIN_CONFIDENCE, DEFAULT_SELFTEST_COMMANDS
from quant_llm_ros.engine.cpus import parse_cpus
from quant_llm_ros.engine.providers import AUTO, PROVIDERS
from quant_llm_ros.errors import EngineError, QuantLlmError
from quant_llm_ros.nodes.parameter_table import ChoiceSpec, Spec


@dataclasses.dataclass(frozen=True)
class Settings:
    """The values of all parameters at one time; the meanings stand in ``SPECS``."""

    bundle: str
    skills: str
    shortlist: int
    threads: int
    cpus: str
    provider: str
    allow_fallback: bool
    selftest_commands: int
    max_command_chars: int
    min_accuracy: float
    min_confidence: float
    conversation_s: float
    deadline_s: float
    queue_capacity: int
    queue_policy: str
    stall_timeout_s: float
    latency_window: int
    latency_period_s: float
    autostart: bool


@dataclasses.dataclass(frozen=True)
class CpusSpec(Spec):
    """A list of CPU cores, as text: an empty list of numbers has no type in ROS 2."""

    def accept(self, value: Any) -> Any:
        """Check a value; a single core may come as a number. See ``Spec.accept``."""
        value = super().accept(str(value) if type(value) is int else value)
        try:
            parse_cpus(value)
        except EngineError as error:
            raise QuantLlmError(f"parameter '{self.name}': {error}") from error
        return value


SPECS: tuple[Spec, ...] = (
    Spec(
        "bundle",
        "",
        "Folder of the model bundle to serve, made by `make bundle` or `quant_llm quantize`.",
        loading=True,
    ),
    Spec("skills", "", "Skill registry (YAML file); empty: the bundle's own.", loading=True),
    Spec(
        "shortlist",
        DEFAULT_SHORTLIST,
        f"Skills that the model is shown for a command where the registry has more than {LARGE}, "
        f"{COMMON} at least; 0: always all, as always with a bundle for TensorRT.",
        0,
        1000,
        loading=True,
    ),
    Spec("threads", 2, "CPU threads of the model.", 1, 64, loading=True),
    CpusSpec(
        "cpus",
        "",
        "CPU cores that the model keeps to, as '2,3' or '4-7', at least as many as threads; the "
        "others are left to the robot. Empty: as the system likes.",
        loading=True,
    ),
    ChoiceSpec(
        "provider",
        AUTO,
        "Where the model runs; auto: what the bundle is made for, CUDA where the installed ONNX "
        "Runtime has it, else the CPU.",
        loading=True,
        choices=PROVIDERS,
    ),
    Spec(
        "allow_fallback",
        False,
        "Serve also where the provider does not start and ONNX Runtime falls back to a slower "
        "one, as to the CPU; else that is an error.",
        loading=True,
    ),
    Spec(
        "selftest_commands",
        DEFAULT_SELFTEST_COMMANDS,
        "Most reference commands of the bundle that are decided before it is served; a decision "
        "other than the reference is an error.",
        0,
        1000,
        loading=True,
    ),
    Spec(
        "max_command_chars",
        512,
        "Longest accepted command, in characters; a longer one gets the decision ERROR.",
        16,
        4096,
        loading=True,
    ),
    Spec(
        "min_accuracy",
        0.0,
        "Least share of right decisions that the bundle's own evaluation must have reached, 0 to "
        "1; a bundle below it, or one that was never evaluated, is not served.",
        0.0,
        1.0,
        loading=True,
    ),
    Spec(
        "min_confidence",
        DEFAULT_MIN_CONFIDENCE,
        "Least confidence of an ACCEPTED decision, 0 to 1; with less the decision is CLARIFY.",
        0.0,
        1.0,
    ),
    Spec(
        "conversation_s",
        30.0,
        "Time for which a command may refer to the one before it, as in «and now back», in "
        "seconds; 0: every command stands for itself.",
        0.0,
        3600.0,
    ),
    Spec(
        "deadline_s",
        5.0,
        "Time from a command's arrival after which its decision is TIMEOUT, in seconds; the goal "
        "of an action may bring its own.",
        0.01,
        600.0,
    ),
    Spec(
        "queue_capacity",
        16,
        "Most commands that wait for the model; one more gets the decision ERROR at once.",
        1,
        1000,
    ),
    ChoiceSpec(
        "queue_policy",
        QueuePolicy.FIFO.value,
        "What a new command does to those that are not decided yet: fifo lets each have its turn; "
        "latest_wins cancels them, also the one that the model is at.",
        choices=tuple(policy.value for policy in QueuePolicy),
    ),
    Spec(
        "stall_timeout_s",
        10.0,
        "Longest time of one pass of the model, in seconds; after it the model has stalled: all "
        "commands in flight get the decision ERROR, and the node starts anew.",
        0.1,
        600.0,
    ),
    Spec(
        "latency_window",
        200,
        "Decisions that the latency statistics look back on; the counters go on when it changes.",
        1,
        100_000,
    ),
    Spec(
        "latency_period_s",
        1.0,
        "Longest time between two publications of the latency statistics, in seconds.",
        0.2,
        3600.0,
    ),
    Spec(
        "autostart",
        False,
        "Configure and activate when the process starts, also after a respawn.",
        read_only=True,
    ),
)
