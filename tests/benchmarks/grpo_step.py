"""Measure one GRPO step of TRL's GRPOTrainer and of ours, on the same prompts and completions.

    python tests/benchmarks/grpo_step.py                        # 0, 2, 4, 8 shots
    python tests/benchmarks/grpo_step.py --shots 8 --json step.json
    python tests/benchmarks/grpo_step.py --sides ours --shots 0,8 --prompts 8   # and its floor
    python tests/benchmarks/grpo_step.py --model random-qwen2.5-0.5b            # needs no download

Each measurement runs in its own process, except with `--in-process`. The first step is a warm-up
and the second is measured; for sides in `--cold`, whose steps are very slow, the first is measured.
All generate exactly `--tokens` tokens per completion, and then train on the same given text, so
that their gradients must agree. The side `vllm` trains as ours and generates with vLLM; by default
it is measured on a GPU if vLLM is installed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import workload

VLLM_MEMORY_SHARE = 0.3


@dataclass(frozen=True)
class Step:
    """The measurements of one step."""

    side: str
    shots: int
    generation_s: float
    log_probs_s: float
    backward_s: float
    step_s: float
    peak_memory_mb: float  # above the loaded model
    generation_tokens: int  # through the model's layers
    training_tokens: int
    header_tokens: int
    gradient_norm: float

    @property
    def training_s(self) -> float:
        return self.log_probs_s + self.backward_s


COLUMNS = {
    "generation": lambda s: s.generation_s,
    "log-probs": lambda s: s.log_probs_s,
    "backward": lambda s: s.backward_s,
    "training": lambda s: s.training_s,
    "step": lambda s: s.step_s,
    "memory MB": lambda s: s.peak_memory_mb,
    "gen. tokens": lambda s: s.generation_tokens,
    "train. tokens": lambda s: s.training_tokens,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=workload.default_model())
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    sides = "trl,ours,vllm" if workload.has_vllm() else "trl,ours"
    parser.add_argument("--sides", default=sides, type=lambda text: text.split(","))
    parser.add_argument(
        "--shots", default="0,2,4,8", type=lambda text: [int(n) for n in text.split(",")]
    )
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--beta", type=float, default=0.0)
    parser.add_argument("--no-gradient-checkpointing", action="store_true")
    parser.add_argument(
        "--cold", default="", type=lambda text: text.split(","), help="sides without a warm-up"
    )
    parser.add_argument(
        "--in-process", action="store_true", help="measure in this process, without start-up time"
    )
    parser.add_argument(
        "--cuda-graphs", action="store_true", help="use CUDA graphs for our decode steps"
    )
    parser.add_argument(
        "--profile", type=Path, help="write a table of the kernels of our step here"
    )
    parser.add_argument("--json", type=Path, help="write the results here after each measurement")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.generations % 2:
        parser.error(
            "--generations is odd, so the middle completion would have no advantage; make it even"
        )
    if args.measure:
        args.measure.write_text(json.dumps(asdict(measure(args, args.sides[0], args.shots[0]))))
        return 0

    arguments = list(sys.argv[1:] if argv is None else argv)
    steps: list[Step] = []
    floors: dict[int, float] = {}

    def write_results() -> None:
        if args.json:
            settings = {k: v for k, v in vars(args).items() if k not in ("json", "measure")}
            result = {
                "machine": workload.machine(),
                "settings": settings,
                "steps": [asdict(step) for step in steps],
                "floors": floors,
            }
            args.json.write_text(json.dumps(result, indent=2, default=str) + "\n")

    print(row("shots", "side", *COLUMNS), flush=True)
    for shots in args.shots:
        measured: dict[str, Step] = {}
        for side in args.sides:
            if args.in_process:
                step = measure(args, side, shots)
                free_memory()
            else:
                step = in_a_process(arguments, side, shots)
            measured[side] = step
            print(row(shots, side, *(f"{get(step):.1f}" for get in COLUMNS.values())), flush=True)
            steps.append(step)
            write_results()
        if trl := measured.get("trl"):
            for side in (side for side in args.sides if side != "trl"):
                print(row("", f"trl / {side}", *ratios(trl, measured[side])))
        norms = ", ".join(f"{step.gradient_norm:.4g}" for step in measured.values())
        print(f"    gradient norms: {norms}", flush=True)
    floors |= header_floors(args, [step for step in steps if step.side == "ours"])
    write_results()
    return 0


def row(*cells: object) -> str:
    return "".join(f"{cell!s:>14}" for cell in cells)


def ratios(trl: Step, other: Step) -> list[str]:
    """Divide each of TRL's columns by the other side's."""
    pairs = [(get(trl), get(other)) for get in COLUMNS.values()]
    return [f"{theirs / ours:.2f}×" if ours else "-" for theirs, ours in pairs]


def header_floors(args: argparse.Namespace, steps: Sequence[Step]) -> dict[int, float]:
    """Return a lower bound in seconds by shots: the step without shots plus the header's FLOPs.

    The header has a forward to generate, and a forward, a recomputed one with checkpointing, and a
    backward to train; later tokens attend to it. Adapters, norms and memory traffic are ignored.
    """
    without = next((step for step in steps if not step.shots), None)
    if without is None or len(steps) == 1:
        return {}
    model, _ = workload.load(args.model, args.dtype)
    config = model.config
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    head_size = config.hidden_size // heads
    weights = sum(p.numel() for name, p in model.named_parameters() if "_proj" in name)
    rate = workload.multiplication_rate(args.dtype, config.hidden_size, config.intermediate_size)
    attention_rate = workload.multiplication_rate(
        args.dtype if torch.cuda.is_available() else "fp32", config.hidden_size, config.hidden_size
    )
    again = 0 if args.no_gradient_checkpointing else 1
    floors = {}
    for step in steps:
        if not step.shots:
            continue
        header = step.header_tokens
        inside, later = header * header / 2, step.training_tokens - header
        decoded = args.prompts * args.generations * args.tokens
        linear = 2 * weights * header * (1 + 2 + again)
        pairs = (inside + decoded * header) + (inside + later * header) * (1 + 2.5 + again)
        attention = 4 * layers * heads * head_size * pairs
        floors[step.shots] = without.step_s + linear / rate + attention / attention_rate
        print(
            f"{step.shots} shots: floor {floors[step.shots]:.1f} s; measured {step.step_s:.1f} s, "
            f"{step.step_s / floors[step.shots]:.2f}× the floor, "
            f"{step.step_s / without.step_s:.2f}× the step at 0 shots"
        )
    return floors


def in_a_process(arguments: list[str], side: str, shots: int) -> Step:
    """Measure in a new process, for its own peak memory."""
    with tempfile.TemporaryDirectory() as scratch:
        result, log = Path(scratch, "step.json"), Path(scratch, "log")
        own = ["--sides", side, "--shots", str(shots), "--measure", str(result)]
        with log.open("w") as stream:
            code = subprocess.call(
                [sys.executable, __file__, *arguments, *own], stdout=stream, stderr=stream
            )
        if code:
            raise SystemExit(
                f"{side} at {shots} shots failed with exit code {code}:\n{log.read_text()[-4000:]}"
            )
        return Step(**json.loads(result.read_text()))


def free_memory() -> None:
    """Free the memory of the last measurement, so that the next peak does not include it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class StepProfiler:
    """Write a table of the kernels of one step and the idle time; without a path do nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._profile: torch.profiler.profile | None = None

    def start(self) -> None:
        if self.path:
            self._profile = torch.profiler.profile()
            self._profile.start()

    def stop(self, step_s: float) -> None:
        if self.path is None or self._profile is None:
            return
        self._profile.stop()
        profile, self._profile = self._profile, None
        # From single events: averages do not show if kernels overlap.
        kernels = sorted(
            (event.time_range.start, event.time_range.end)
            for event in profile.events() or ()
            if event.device_type == torch.profiler.DeviceType.CUDA
        )
        busy_us, last = 0.0, 0.0
        for start, end in kernels:
            busy_us += max(0.0, end - max(start, last))
            last = max(last, end)
        averages = profile.key_averages()
        by = "self_device_time_total" if kernels else "self_cpu_time_total"
        self.path.write_text(
            f"step {step_s:.3f} s under the profiler; {len(kernels)} kernels, busy "
            f"{busy_us / 1e6:.3f} s, idle {step_s - busy_us / 1e6:.3f} s\n\n"
            + averages.table(sort_by=by, row_limit=40, max_name_column_width=60)
            + "\n"
        )


def measure(args: argparse.Namespace, side: str, shots: int) -> Step:
    """Run the side's trainer and measure its last step."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer
    from trl.models import unwrap_model_for_generation

    from rlvr_trainer import shared_prefix
    from rlvr_trainer.models.allocator import keep_freed_memory
    from rlvr_trainer.shared_prefix.packed_layout import common_prefix_length

    if side == "ours" and not torch.cuda.is_available():
        keep_freed_memory()  # as `rlvr_trainer train` does
    num_steps = 1 if side in args.cold else 2
    model, tokenizer = workload.load(args.model, args.dtype)
    memory, clock = workload.PeakMemory(), workload.Clock()
    texts = workload.prompts(args.prompts, shots)
    completions = workload.solutions(tokenizer, args.prompts * args.generations, args.tokens)
    num_tokens = {"generation": 0, "training": 0}

    class Measured(GRPOTrainer if side == "trl" else shared_prefix.SharedPrefixGRPOTrainer):
        # TRL generates here, with vLLM too; ours has a rollout.
        def _generate_single_turn(self, *turn: Any, **options: Any) -> Any:
            with clock("generation"):
                generated, _ = super()._generate_single_turn(*turn, **options)
            check_lengths(generated)
            return completions, None

        def _get_per_token_logps_and_entropies(self, *batch: Any, **options: Any) -> Any:
            with clock("log_probs"):
                return super()._get_per_token_logps_and_entropies(*batch, **options)

    def rollout(texts: list[str], trainer: Any) -> dict[str, Any]:
        prompt_ids = tokenizer(text=texts)["input_ids"]
        with (
            clock("generation"),
            unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as policy,
        ):
            generated = shared_prefix.generate(
                policy,
                prompt_ids,
                tokenizer=tokenizer,
                max_new_tokens=args.tokens,
                temperature=1.0,
                eos_token_ids=set(),
                cuda_graphs=args.cuda_graphs,
            )
        check_lengths(generated)
        return {"prompt_ids": prompt_ids, "completion_ids": completions, "logprobs": None}

    def check_lengths(generated: list[list[int]]) -> None:
        assert all(len(completion) == args.tokens for completion in generated)

    def reward(prompts: list[str], **_: Any) -> list[float]:
        # With an even number the mean is not a reward, so no advantage is zero.
        return [float(i % args.generations) for i in range(len(prompts))]

    profiler = StepProfiler(args.profile if side == "ours" else None)

    class Callbacks(TrainerCallback):
        def on_step_begin(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            if state.global_step == num_steps - 1:
                profiler.start()
            memory.reset()
            clock.reset()
            num_tokens.update(generation=0, training=0)
            clock.start("step")

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.stop("step")
            profiler.stop(clock.seconds["step"])

    embedding = torch.nn.functional.embedding

    def counting(ids: torch.Tensor, *weights: Any, **options: Any) -> torch.Tensor:
        num_tokens["generation" if clock.runs("generation") else "training"] += ids.numel()
        return embedding(ids, *weights, **options)

    torch.nn.functional.embedding = counting
    with tempfile.TemporaryDirectory() as scratch:
        exact_length: dict[str, Any] = {"generation_kwargs": {"min_new_tokens": args.tokens}}
        if side == "vllm":
            workload.save(model, tokenizer, Path(scratch, "model"))
            exact_length = {
                "use_vllm": True,
                "vllm_gpu_memory_utilization": VLLM_MEMORY_SHARE,
                # the training is not on vLLM's own completions
                "vllm_importance_sampling_correction": False,
                "generation_kwargs": {
                    "min_tokens": args.tokens,
                    "ignore_eos": True,
                    "detokenize": False,  # the random model samples ids without a token
                },
            }
        trainer = Measured(
            model=model,
            processing_class=tokenizer,
            reward_funcs=[reward],
            train_dataset=Dataset.from_dict({"prompt": texts * 2}),
            peft_config=LoraConfig(
                r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            args=GRPOConfig(
                output_dir=scratch,
                per_device_train_batch_size=args.prompts * args.generations,
                num_generations=args.generations,
                max_completion_length=args.tokens,
                **exact_length,
                beta=args.beta,
                gradient_checkpointing=not args.no_gradient_checkpointing,
                bf16=args.dtype == "bf16",
                learning_rate=1e-4,
                lr_scheduler_type="constant",
                max_steps=num_steps,
                shuffle_dataset=False,
                use_cpu=not torch.cuda.is_available(),
                logging_steps=1,
                save_strategy="no",
                report_to="none",
            ),
            **({"rollout_func": rollout} if side == "ours" else {}),
        )
        trainer.add_callback(Callbacks())
        trainer.accelerator.backward = clock.wrap("backward", trainer.accelerator.backward)
        try:
            trainer.train()
        finally:
            torch.nn.functional.embedding = embedding
    ids = tokenizer(text=texts)["input_ids"]
    return Step(
        side=side,
        shots=shots,
        generation_s=clock.seconds["generation"],
        log_probs_s=clock.seconds["log_probs"],
        backward_s=clock.seconds["backward"],
        step_s=clock.seconds["step"],
        peak_memory_mb=memory.bytes() / 1e6,
        generation_tokens=num_tokens["generation"],
        training_tokens=num_tokens["training"],
        header_tokens=common_prefix_length(ids) if shots else 0,
        gradient_norm=trainer.state.log_history[num_steps - 1]["grad_norm"],
    )


if __name__ == "__main__":
    raise SystemExit(main())
