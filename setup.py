"""Build of the ament_python package quant_llm_ros."""

from __future__ import annotations

import pathlib

from setuptools import find_packages, setup

PACKAGE = "quant_llm_ros"
SHARE = pathlib.PurePosixPath("share") / PACKAGE


def data_files() -> list[tuple[str, list[str]]]:
    """List the files installed outside the Python package: (folder, files of that folder)."""
    folders: dict[str, list[str]] = {
        "share/ament_index/resource_index/packages": [f"resource/{PACKAGE}"],
        str(SHARE): ["package.xml"],
    }
    scripts = (pathlib.Path(folder).glob("*.py") for folder in ("kernels", "launch"))
    shipped = [*(path for paths in scripts for path in paths), *pathlib.Path("config").rglob("*")]
    for path in sorted(shipped):
        if path.is_file():
            folders.setdefault(str(SHARE / path.parent.as_posix()), []).append(path.as_posix())
    return list(folders.items())


setup(
    name=PACKAGE,
    version="0.1.0",
    description="Natural-language commands to typed robot decisions with a quantized LLM",
    license="Apache-2.0",
    maintainer="quant_llm_ros maintainers",
    maintainer_email="maintainers@quant-llm-ros.invalid",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: ["py.typed"], f"{PACKAGE}.report": ["page.css"]},
    data_files=data_files(),
    python_requires=">=3.10",
    # What a robot needs besides ROS 2. The engine is an extra, since a robot with a GPU has its
    # vendor's ONNX Runtime, and two of them in one environment overwrite each other.
    install_requires=[
        "llguidance",
        "numpy",
        "pint",
        "pyyaml",
        "rapidfuzz",
        "rich",
        "snowballstemmer",
        "tokenizers",
    ],
    extras_require={
        "bench": ["matplotlib"],
        "onnxruntime": ["onnxruntime"],
        "peers": ["llama-cpp-python", "onnxruntime-genai"],
        "quantize": [
            "accelerate",
            "gguf",
            "onnx",
            "onnx-ir",
            "onnxscript",
            "peft",
            "safetensors",
            "torch",
            "transformers",
        ],
        "replay": ["rosbags"],
        "search": ["optuna"],
        "tensorrt": ["cuda-python"],  # TensorRT itself comes with JetPack
        "test": ["pytest", "pytest-timeout"],
    },
    entry_points={
        "console_scripts": [
            "demo = quant_llm_ros.nodes.demo:main",
            "executor_node = quant_llm_ros.nodes.executor_node:main",
            "quant_llm = quant_llm_ros.cli:main",
            "sim_node = quant_llm_ros.nodes.sim_node:main",
            "understanding_node = quant_llm_ros.nodes.understanding_node:main",
        ],
    },
    zip_safe=True,
)
