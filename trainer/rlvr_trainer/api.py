"""Run the steps of the pipeline as plain functions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr_trainer.phases import EVALUATION_PHASES, Label
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.run_dir.events import phase_events, read_events
from rlvr_trainer.run_dir.layout import ADAPTER, EVALUATION, REPORT, SAMPLES

if TYPE_CHECKING:
    from rlvr_trainer.data import Manifest
    from rlvr_trainer.evaluation.outcome import Evaluation, Shares

# torch takes seconds to import; each step imports what it needs when it is called.


def prepare(recipe: Recipe, data_dir: Path) -> Manifest:
    """Write the splits and their manifest to `data_dir`, and return the manifest."""
    from rlvr_trainer.data import prepare as prepare_data
    from rlvr_trainer.models.chat_prompts import chat_template, prompt_ids
    from rlvr_trainer.models.fit import check_local_model
    from rlvr_trainer.models.load import load_tokenizer

    with phase_events("prepare") as results:
        check_local_model(recipe)
        tokenizer = load_tokenizer(recipe.model, recipe.prompt.chat_template)
        manifest = prepare_data(
            recipe,
            data_dir,
            count_tokens=lambda text: len(prompt_ids(tokenizer, [text], recipe.prompt.style)[0]),
            template=chat_template(recipe, tokenizer),
        )
        results["counts"], results["quarantined"] = manifest["counts"], manifest["quarantined"]
        results["oddities"] = manifest["oddities"]
    return manifest


def evaluate(
    recipe: Recipe,
    data_dir: Path,
    output_dir: Path,
    *,
    label: Label,
    adapter_dir: Path | None = None,
) -> Shares:
    """Write `output_dir`/samples.jsonl and return its headline shares."""
    from rlvr_trainer.evaluation.evaluate_model import evaluate_model

    with phase_events(EVALUATION_PHASES[label]) as results:
        shares = evaluate_model(recipe, data_dir, output_dir, label=label, adapter_dir=adapter_dir)
        results.update(shares)
    return shares


def train(recipe: Recipe, run_dir: Path, data_dir: Path) -> bool:
    """Train and write `run_dir`/adapter; return False if a signal stopped it after a commit."""
    from rlvr_trainer.grpo.training import train as train_model

    with phase_events("train") as results:
        finished = train_model(recipe, run_dir, data_dir)
        results["preempted"] = not finished
    return finished


def compare(
    recipe: Recipe,
    data_dir: Path,
    before_dir: Path,
    after_dir: Path,
    events_file: Path | None,
    output_dir: Path,
) -> Evaluation:
    """Write `output_dir`/evaluation.json, samples.jsonl and report.html; return the evaluation."""
    from rlvr_trainer.data import load_manifest
    from rlvr_trainer.evaluation.outcome import compare as compare_samples
    from rlvr_trainer.evaluation.outcome import read_samples, write_json, write_samples
    from rlvr_trainer.report import render_report, write_report

    with phase_events("report") as results:
        before = read_samples(before_dir / SAMPLES)
        after = read_samples(after_dir / SAMPLES)
        pass_at_k = recipe.evaluation.pass_at_k
        evaluation = compare_samples(
            before,
            after,
            trained_shots=recipe.prompt.num_shots,
            k=pass_at_k.k if pass_at_k else (),
        )
        output_dir.mkdir(parents=True, exist_ok=True)
        write_json(output_dir / EVALUATION, evaluation)
        write_samples(output_dir / SAMPLES, [*before, *after])
        html = render_report(
            recipe=recipe.model_dump(mode="json"),
            manifest=load_manifest(data_dir),
            events=read_events(events_file) if events_file else [],
            evaluation=evaluation,
            samples=[*before, *after],
        )
        write_report(output_dir / REPORT, html)
        results["verdict"] = evaluation["verdict"]
    return evaluation


def adapter_to(run_dir: Path, target: Path) -> None:
    """Copy the trained adapter of a run directory to `target`."""
    shutil.copytree(run_dir / ADAPTER, target, dirs_exist_ok=True)
