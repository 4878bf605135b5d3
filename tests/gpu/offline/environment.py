"""Part a: print the machine and versions, and import our modules."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "trl",
    "datasets",
    "peft",
    "accelerate",
    "bitsandbytes",
    "deepspeed",
    "pydantic",
    "numpy",
    "pyarrow",
    "tokenizers",
    "safetensors",
    "huggingface-hub",
    "vllm",
)
MODULES = (
    "bitsandbytes",
    "deepspeed",
    "rlvr_trainer.grpo.training",
    "rlvr_trainer.shared_prefix.grpo_trainer",
    "rlvr_trainer.shared_prefix.gpu.flex_attention",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    facts = {"python": platform.python_version(), "cpu cores": len(os.sched_getaffinity(0))}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "card": properties.name,
            "memory GiB": round(properties.total_memory / 2**30),
            "compute capability": f"{properties.major}.{properties.minor}",
            "CUDA": torch.version.cuda,
        }
    facts["nvcc"] = shutil.which("nvcc")
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = None
    for name, value in facts.items():
        print(f"{name:20}{value or 'none'}")
    args.json.write_text(json.dumps(facts, indent=2))
    for module in MODULES:  # last, so that a failure does not hide the versions
        importlib.import_module(module)
        print(f"import {module}")


if __name__ == "__main__":
    main()
