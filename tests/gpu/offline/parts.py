"""Run the measurements on a GPU machine one after another, the most valuable first.

Each part is a process with its own time limit, so that a failure does not affect the others. After
each part `--out` has all results so far: results.json, output.txt, junit.xml and summary.txt, and
profile.txt of part g. With `--tiny` the parts run on a CPU, in sizes that take seconds there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
MAX_FILE_BYTES = 15 * 2**20
TINY_PATIENCE = 4  # times the limit on a CPU, which may be slow
FEW_FORWARDS = "qwen2 or (300 and (lora or bfloat16))"  # FlexAttention compiles slowly on a CPU
# The tests of part d, whose results matter before those of the rest.
FIRST_TRAININGS = "qlora or zero_3 or trains_in_bf16"
FEW_TRAININGS = "zero_3 or trains_in_bf16"  # with QLoRA; all its pairs take minutes on a CPU

Result = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Arguments of Python, with {json}, {junit} and {profile} for files that it may write."""

    name: str
    title: str
    command: Sequence[str]
    limit_s: int
    summarise: Callable[[Result], str] = lambda result: ""


def parts(*, tiny: bool) -> list[Part]:
    """All parts in the order in which they run."""
    pytest = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "--junitxml={junit}")
    step = ("tests/benchmarks/grpo_step.py", "--in-process", "--json={json}")
    evaluation = ("tests/benchmarks/evaluation.py", "--json={json}")
    model = ("--model=random-tiny" if tiny else "--model=random-qwen2.5-0.5b",)
    size = {"prompts": 2, "generations": 2, "tokens": 8} if tiny else {"tokens": 256}

    def steps(sides: str, shots: str, **sizes: int) -> tuple[str, ...]:
        given = {"prompts": 8, "generations": 8} | sizes | (size if tiny else {})
        return (
            *(*step, *model, f"--sides={sides}", f"--shots={shots}"),
            *(f"--{name}={value}" for name, value in given.items()),
        )

    graphs = (*steps("ours", "8,0", tokens=256), "--cuda-graphs")
    questions = ("--prompts=4", "--tokens=4", "--batch-sizes=4") if tiny else ("--batch-sizes=64",)
    ordered = [
        Part("a", "environment", (str(HERE / "environment.py"), "--json={json}"), 60, versions),
        Part(
            "b",
            "packed forward",
            (*pytest, "tests/gpu/test_packed_forward.py", *(("-k", FEW_FORWARDS) if tiny else ())),
            150,
            tests,
        ),
        Part("c", "step", steps("ours,trl", "8,0", tokens=256), 180, step_ratios),
        Part("c2", "step with CUDA graphs", graphs, 90, step_seconds),
        Part(
            "d",
            "QLoRA and ZeRO-3",
            (
                *pytest,
                "tests/gpu/test_training.py",
                "-k",
                FEW_TRAININGS if tiny else FIRST_TRAININGS,
            ),
            150,
            tests,
        ),
        Part(
            "e",
            "other GPU tests",
            (
                *(*pytest, "tests/gpu/test_generation.py", "tests/gpu/test_training.py"),
                *("-k", f"not ({FIRST_TRAININGS})"),
            ),
            150,
            tests,
        ),
        Part("f", "evaluation", (*evaluation, *model, *questions), 90, evaluation_ratio),
        Part(
            "g",
            "profile of our step",
            (*steps("ours", "8", tokens=16), "--profile={profile}"),
            90,
            step_seconds,
        ),
        Part(
            "h",
            "2,048 tokens",
            (*steps("ours,trl", "0", prompts=2, tokens=2048), "--cold=ours,trl"),
            240,
            step_ratios,
        ),
    ]
    if find_spec("vllm"):
        ordered.append(Part("i", "vLLM", steps("vllm", "8,0", tokens=256), 180, step_seconds))
    return ordered


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results")
    parser.add_argument(
        "--wheels", type=Path, action="append", default=[], help="a folder of collect.sh"
    )
    parser.add_argument("--parts", help="some of a,b,c,c2,d,e,f,g,h,i (default: all)")
    parser.add_argument(
        "--minutes", type=float, default=12, help="time limit of all parts together"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="on a CPU, in tiny sizes; parts may take longer"
    )
    args = parser.parse_args(argv)
    started = time.monotonic()
    chosen = parts(tiny=args.tiny)
    if args.parts:
        names = args.parts.split(",")
        chosen = [part for part in chosen if part.name in names]
    with tempfile.TemporaryDirectory() as scratch:
        packages = Path(scratch, "packages")
        install = [HERE / "install.py", packages, *map(Path.resolve, args.wheels)]
        subprocess.run([sys.executable, *install], check=True)
        return run_all(
            chosen,
            args.out,
            environment(packages, tiny=args.tiny),
            deadline=started + args.minutes * 60,
            patience=TINY_PATIENCE if args.tiny else 1,
        )


def environment(packages: Path, *, tiny: bool) -> dict[str, str]:
    """Return the environment of the parts: our source, the installed wheels, no network."""
    sources = [
        packages.resolve(),
        *(ROOT / name for name in ("trainer", "components", "pipelines")),
    ]
    inherited = os.environ.get("PYTHONPATH")
    paths = [*map(str, sources), *([inherited] if inherited else [])]
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    on_cpu = {"RLVR_GPU_TESTS_ON": "cpu", "CUDA_VISIBLE_DEVICES": ""} if tiny else {}
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | offline | on_cpu


def run_all(
    chosen: Sequence[Part],
    out: Path,
    environment: dict[str, str],
    *,
    deadline: float,
    patience: float = 1,
) -> int:
    """Run the parts until `deadline` (monotonic); return the number that did not pass."""
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    results: list[Result] = []
    for part in chosen:
        remaining_s = deadline - time.monotonic()
        print(f"== {part.name} {part.title}", flush=True)
        results.append(run(part, out, environment, min(part.limit_s * patience, remaining_s)))
        write(out, results, time.monotonic() - started)
    print((out / "summary.txt").read_text(), end="")
    return sum(result["state"] != "passed" for result in results)


def run(part: Part, out: Path, environment: dict[str, str], limit_s: float) -> Result:
    """Run one part; its state is passed, failed, timed out or skipped."""
    result: Result = {"part": part.name, "title": part.title, "seconds": 0.0, "output": ""}
    if limit_s <= 0:
        return result | {"state": "skipped", "summary": "no time was left"}
    with tempfile.TemporaryDirectory() as scratch:
        files = {
            "json": Path(scratch, "result.json"),
            "junit": Path(scratch, "junit.xml"),
            "profile": out.resolve() / "profile.txt",
        }
        command = [sys.executable, *part.command]
        for kind, path in files.items():
            command = [argument.replace(f"{{{kind}}}", str(path)) for argument in command]
        began = time.monotonic()
        with Path(scratch, "output").open("w+") as stream:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(limit_s)
                state = "failed" if code else "passed"
            except subprocess.TimeoutExpired:
                state, code = "timed out", None
            finally:
                kill_group(process)
        result |= {"state": state, "exit_code": code, "seconds": time.monotonic() - began}
        result["output"] = Path(scratch, "output").read_text(errors="replace")
        for kind in ("json", "junit"):
            if files[kind].exists():
                text = files[kind].read_text()
                result[kind] = json.loads(text) if kind == "json" else text
    return result | {"summary": summary_of(part, result)}


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the part's process and its children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def summary_of(part: Part, result: Result) -> str:
    """Return the figures of a part, or else the last line of its output."""
    try:
        figures = part.summarise(result)
    except (KeyError, ValueError, ElementTree.ParseError):
        figures = ""
    if result["state"] == "passed" or figures:
        return figures
    lines = result["output"].strip().splitlines()
    return lines[-1][:120] if lines else ""


def write(out: Path, results: Sequence[Result], seconds: float) -> None:
    """Write all results so far, each file at most `MAX_FILE_BYTES` long."""
    first = next((r for r in results if r["part"] == "a" and r["state"] == "passed"), None)
    card = first["json"].get("card") if first and "json" in first else None
    head = [card or "CPU", *([first["summary"]] if first and first["summary"] else [])]
    for state in ("passed", "failed", "timed out", "skipped"):
        names = [r["part"] for r in results if r["state"] == state]
        if names:
            head.append(f"{state} {' '.join(names)}")
    # Part a is in the head.
    lines = [
        f"{r['part']:3}{r['title'][:21]:22}{r['state']:10}{r['seconds']:5.0f} s  {r['summary']}"
        for r in results
        if r is not first
    ]
    kept = [{k: v for k, v in r.items() if k not in ("output", "junit")} for r in results]
    # The end of a long output has the error.
    share = MAX_FILE_BYTES // max(1, len(results))
    outputs = [f"== {r['part']} {r['title']}\n{r['output'][-share:]}" for r in results]
    document = json.dumps({"card": card, "seconds": seconds, "parts": kept}, indent=2)
    texts = {
        "summary.txt": "\n".join([", ".join([*head, f"{seconds:.0f} s"]), *lines]) + "\n",
        "results.json": document + "\n",
        "output.txt": "\n".join(outputs),
        "junit.xml": junit(results),
    }
    for name, text in texts.items():
        new = out / f"{name}.new"
        new.write_text(text)
        new.replace(out / name)


def junit(results: Sequence[Result]) -> str:
    """Return a suite of the parts, and the suites of those that are tests."""
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(suites, "testsuite", name="parts", tests=str(len(results)))
    for r in results:
        name, took = f"{r['part']} {r['title']}", f"{r['seconds']:.1f}"
        case = ElementTree.SubElement(suite, "testcase", name=name, time=took)
        if r["state"] == "skipped":
            ElementTree.SubElement(case, "skipped", message=r["summary"])
        elif r["state"] != "passed":
            ElementTree.SubElement(case, "failure", message=f"{r['state']}: {r['summary']}")
        if "junit" in r:
            suites.extend(ElementTree.fromstring(r["junit"]).iter("testsuite"))
    return ElementTree.tostring(suites, encoding="unicode")


def versions(result: Result) -> str:
    names = ("python", "torch", "transformers", "trl")
    return ", ".join(f"{name} {result['json'][name]}" for name in names)


def tests(result: Result) -> str:
    suites = list(ElementTree.fromstring(result["junit"]).iter("testsuite"))
    counts = {
        kind: sum(int(suite.get(kind, "0")) for suite in suites)
        for kind in ("tests", "failures", "errors", "skipped")
    }
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)


def step_ratios(result: Result) -> str:
    """Divide TRL's seconds and memory by ours."""
    steps = {(step["shots"], step["side"]): step for step in result["json"]["steps"]}
    texts = []
    for (shots, side), trl in steps.items():
        ours = steps.get((shots, "ours"))
        if side != "trl" or ours is None:
            continue
        ratios = {
            "step": trl["step_s"] / ours["step_s"],
            "training": training_s(trl) / training_s(ours),
            "generation": trl["generation_s"] / ours["generation_s"],
            "memory": trl["peak_memory_mb"] / max(1.0, ours["peak_memory_mb"]),
        }
        figures = ", ".join(f"{name} {ratio:.1f}×" for name, ratio in ratios.items())
        texts.append(f"{shots} shots: {figures}")
    return "; ".join(texts) or step_seconds(result)


def step_seconds(result: Result) -> str:
    return "; ".join(
        f"{s['side']}, {s['shots']} shots: generation {s['generation_s']:.2f} s, "
        f"training {training_s(s):.2f} s"
        for s in result["json"]["steps"]
    )


def training_s(step: Result) -> float:
    seconds: float = step["log_probs_s"] + step["backward_s"]
    return seconds


def evaluation_ratio(result: Result) -> str:
    data = result["json"]
    return f"{data['ratio_to_the_fastest']:.1f}× plain generate, ours {data['ours_s']:.1f} s"


if __name__ == "__main__":
    raise SystemExit(1 if main() else 0)
