"""The program ``quant_llm``: one subcommand for each thing that people do with bundles."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import signal
import sys
import threading

from quant_llm_ros import __version__
from quant_llm_ros.cli import (
    average,
    bench,
    build_engine,
    evaluate,
    finetune,
    generate,
    growth,
    inspect,
    lint_graph,
    quantize,
    replay,
    report,
    search,
    selftest,
    sweep,
    understand,
    watch,
)
from quant_llm_ros.engine.cpus import check_cpus, keep_process_to
from quant_llm_ros.errors import QuantLlmError


def build_parser() -> argparse.ArgumentParser:
    """Make the parser with all subcommands."""
    parser = argparse.ArgumentParser(
        prog="quant_llm",
        description="Quantize a language model for a robot, look at the result and talk to it.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subcommands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (
        quantize,
        inspect,
        selftest,
        understand,
        watch,
        replay,
        evaluate,
        build_engine,
        bench,
        growth,
        generate,
        finetune,
        average,
        sweep,
        report,
        search,
        lint_graph,
    ):
        module.add_parser(subcommands)
    return parser


class _TerminatedError(BaseException):
    """A signal asked the program to end."""


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let SIGTERM end the program as Ctrl-C does, through all that clears up."""

    def end(number: int, frame: object) -> None:
        raise _TerminatedError

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Returns:
        0; 1 where something was wrong with a file or the input, said on standard error; 130 when
        interrupted, 143 when terminated: both remove what is half written.
    """
    arguments = build_parser().parse_args(argv)
    try:
        # Where there is such an option; child processes begin with the same cores.
        cpus: tuple[int, ...] = getattr(arguments, "cpus", ())
        if cpus:
            check_cpus(cpus, arguments.threads)
            keep_process_to(cpus)
        with _ending_in_order():
            return int(arguments.run(arguments))
    except _TerminatedError:
        print("quant_llm: terminated", file=sys.stderr)
        return 143
    except QuantLlmError as error:
        print(f"quant_llm: {error}", file=sys.stderr)
        return 1
    except FileNotFoundError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else error
        print(f"quant_llm: {what}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("quant_llm: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone, as with `| head`; nobody is left to tell.
        sys.stderr.close()
        return 1
    except OSError as error:
        print(f"quant_llm: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        return 1
