"""The workload of the benchmarks: models, GSM8K prompts, and measuring time and memory."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from rlvr_trainer.models import load_model, load_tokenizer
from rlvr_trainer.models.load import DTYPES
from rlvr_trainer.recipe.schema import ModelSection, PromptSection
from rlvr_trainer.tasks.gsm8k import GSM8K, read_text
from rlvr_trainer.tasks.prompt import PromptLayout

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_model import VOCAB_SIZE, small_tokenizer

SMOLLM2 = "embedded:smollm2-135m-instruct"
RANDOM_QWEN = "random-qwen2.5-0.5b"
# Random weights in these shapes need no download, and use the repository's own tokenizer.
RANDOM_SHAPES = {
    RANDOM_QWEN: {
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": True,
    },
    "random-tiny": {
        "vocab_size": 2 * VOCAB_SIZE,  # more than the tokenizer has, as in the other
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
}
MAX_SHOTS = 8
FIRST_QUESTION = 100  # a training row well after the exemplars


def default_model() -> str:
    """Return the embedded model on a CPU, and on a GPU the shape of Qwen2.5-0.5B."""
    return RANDOM_QWEN if torch.cuda.is_available() else SMOLLM2


def has_vllm() -> bool:
    """Return True if vLLM can be measured here."""
    return torch.cuda.is_available() and find_spec("vllm") is not None


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save the model for vLLM, which loads its own copy by the model's name."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model.name_or_path = model.config._name_or_path = str(folder)


def load(name: str, dtype: str) -> tuple[Any, Any]:
    """Return the model, on this machine's device, and its tokenizer."""
    if shape := RANDOM_SHAPES.get(name):
        tokenizer: Any = small_tokenizer()
        torch.manual_seed(0)
        config = Qwen2Config(
            **shape, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
        )
        model: Any = Qwen2ForCausalLM(config).to(DTYPES[dtype])
    else:
        section = ModelSection(name=name, dtype=dtype)
        model, tokenizer = load_model(section), load_tokenizer(section)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def prompts(count: int, num_shots: int) -> list[str]:
    """Return prompts of different GSM8K questions with the same `num_shots` worked examples."""
    task = GSM8K()
    lines = read_text("train").splitlines()
    rows = [
        task.parse(json.loads(line), str(i))
        for i, line in enumerate(lines[: FIRST_QUESTION + count])
    ]
    layout = PromptLayout(PromptSection(), rows[:MAX_SHOTS])
    return [layout.prompt(row, num_shots) for row in rows[FIRST_QUESTION:]]


def solutions(tokenizer: Any, count: int, num_tokens: int) -> list[list[int]]:
    """Return `count` different completions of `num_tokens` tokens from GSM8K's solutions."""
    text = "\n".join(
        json.loads(line)["answer"] for line in read_text("train").splitlines()[500:4000]
    )
    ids = tokenizer(text=text)["input_ids"]
    return [ids[i * num_tokens : (i + 1) * num_tokens] for i in range(count)]


class Clock:
    """Measure seconds by name, with an empty GPU queue at start and stop."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started: dict[str, float] = {}

    def reset(self) -> None:
        self.seconds.clear()

    def start(self, name: str) -> None:
        synchronize()
        self._started[name] = time.perf_counter()

    def stop(self, name: str) -> None:
        synchronize()
        took = time.perf_counter() - self._started.pop(name)
        self.seconds[name] = self.seconds.get(name, 0.0) + took

    def runs(self, name: str) -> bool:
        return name in self._started

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.start(name)
        yield
        self.stop(name)

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self(name):
                return function(*args, **kwargs)

        return timed


def multiplication_rate(dtype: str, inner: int, outer: int) -> float:
    """Measure the floating-point operations per second of (2048, inner) × (inner, outer)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(2048, inner, device=device).to(DTYPES[dtype])
    w = torch.randn(outer, inner, device=device).to(DTYPES[dtype])
    clock, count = Clock(), 10
    for attempt in range(10):
        with clock(str(attempt)):
            for _ in range(count):
                torch.nn.functional.linear(x, w)
    return 2 * 2048 * inner * outer * count / min(clock.seconds.values())


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class PeakMemory:
    """Peak bytes of the GPU or else this process, above those at construction."""

    def __init__(self) -> None:
        self.base = _status("VmRSS")
        if torch.cuda.is_available():
            self.base = torch.cuda.memory_allocated()

    def reset(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM to VmRSS

    def bytes(self) -> int:
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() - self.base
        return _status("VmHWM") - self.base


def machine() -> dict[str, Any]:
    """Describe the machine and versions that the results depend on."""
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    names = {line.split(":")[1].strip() for line in lines if line.startswith("model name")}
    return ", ".join(sorted(names)) or platform.machine()


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)
