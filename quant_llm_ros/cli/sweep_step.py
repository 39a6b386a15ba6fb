"""The process of one step of a sweep: ``python -m quant_llm_ros.cli.sweep_step``."""

from __future__ import annotations

from quant_llm_ros.cli.building import Builder
from quant_llm_ros.report.worker import work

if __name__ == "__main__":
    raise SystemExit(work(Builder()))
