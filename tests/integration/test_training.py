"""Train real run directories on a random two-layer model: real TRL, PEFT, DeepSpeed."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.forked_trainer import Program, start
from tests.integration.fixed_completions import main_with_fixed_completions

from rlvr_trainer.__main__ import main
from rlvr_trainer.api import prepare
from rlvr_trainer.api import train as train_here
from rlvr_trainer.errors import CheckpointError, Diverged, RewardError, RLVRError
from rlvr_trainer.models import load_adapter, load_model, load_tokenizer
from rlvr_trainer.publishing import merged_model, publish
from rlvr_trainer.recipe.reader import load_recipe, parse_recipe
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.run_dir.events import read_events

REWARD = "def vowels(completion, row):\n    return sum(c in 'aeiou' for c in completion) / 40\n"


def recipe_for(model_dir: Path, folder: Path, *overrides: str) -> Recipe:
    """Return the demo's recipe: two steps, a random model, a reward that random text earns."""
    reward = folder / "reward.py"
    reward.write_text(REWARD)
    return load_recipe(
        "arithmetic",
        [
            f"model.name={model_dir}",
            "model.dtype=fp32",
            f"rewards={{vowels: {{function: '{reward}:vowels'}}}}",
            "data={num_train_rows: 40, num_test_rows: 8, num_exemplars: 2}",
            "prompt.num_shots=2",
            "sampling={num_generations: 4, max_completion_tokens: 8}",
            "training={max_steps: 2, per_device_batch_size: 8, learning_rate: 1e-3, "
            "gradient_checkpointing: false, num_validation_rows: 4, save_steps: 1}",
            *overrides,
        ],
    )


def prepared_run(recipe: Recipe, run_dir: Path) -> Path:
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "recipe.json").write_text(recipe.model_dump_json())
    prepare(recipe, run_dir / "data")
    return run_dir


def train(run_dir: Path, num_ranks: int = 0, *, program: Program = main, check: bool = True) -> int:
    """Train in a process of its own, or on `num_ranks`, and return the exit code."""
    arguments = ["train", "--run-dir", str(run_dir)]
    code = start(program, arguments, run_dir / "train.log", num_ranks).wait()
    if check:
        assert code == 0, (run_dir / "train.log").read_text()[-3000:]
    return code


def rewards_of(run_dir: Path) -> list[float]:
    events = read_events(run_dir / "metrics.jsonl")
    return [event["reward"] for event in events if event["event"] == "step"]


@pytest.fixture(scope="module")
def trained(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train two steps in one process and return the run directory."""
    folder = tmp_path_factory.mktemp("trained")
    run_dir = prepared_run(recipe_for(tiny_model_dir, folder), folder / "run")
    train(run_dir)
    return run_dir


def test_a_recipe_trains_by_verifiers_with_options(tiny_model_dir: Path, tmp_path: Path) -> None:
    rewards = (
        "rewards={letter: {verifier: regex, pattern: '[^g]*'}, "
        "short: {verifier: length, free_tokens: 2, max_tokens: 9}, correctness: {verifier: text}}"
    )
    recipe = recipe_for(tiny_model_dir, tmp_path, rewards, "prompt.answer_place=text")
    run_dir = prepared_run(recipe, tmp_path / "run")
    train(run_dir)
    steps = [event for event in read_events(run_dir / "metrics.jsonl") if event["event"] == "step"]
    assert len(steps) == 2
    assert any(0 < step["rewards/letter/mean"] < 1 for step in steps)
    assert all(-1 < step["rewards/short/mean"] < 0 for step in steps)  # of 8 or fewer tokens
    assert all(step["rewards/correctness/mean"] == 0 for step in steps)


def test_a_run_leaves_adapter_checkpoints_and_events(trained: Path) -> None:
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= {
        path.name for path in (trained / "adapter").iterdir()
    }
    assert not (trained / "adapter" / "training_args.bin").exists()
    assert sorted(path.name for path in (trained / "checkpoints").glob("step-*")) == [
        "step-1",
        "step-2",
    ]
    events = read_events(trained / "metrics.jsonl")
    kinds = [(event["event"], event.get("step")) for event in events]
    assert ("step", 1) in kinds
    assert ("checkpoint", 2) in kinds
    assert ("evaluation", 2) in kinds
    assert [e["state"] for e in events if e["event"] == "phase"] == ["started", "finished"]


def test_the_trained_adapter_differs_from_its_start(trained: Path) -> None:
    weights = load_file(trained / "adapter" / "adapter_model.safetensors")
    assert any(tensor.any() for name, tensor in weights.items() if "lora_B" in name)


def test_a_run_that_learns_nothing_fails(tiny_model_dir: Path, tmp_path: Path) -> None:
    recipe = recipe_for(tiny_model_dir, tmp_path)
    (tmp_path / "reward.py").write_text("def vowels(completion, row):\n    return 1.0\n")
    run_dir = prepared_run(recipe, tmp_path / "run")
    assert train(run_dir, check=False) == RLVRError.exit_code
    log = (run_dir / "train.log").read_text()
    assert "the adapter did not change" in log
    assert "all completions were cut at sampling.max_completion_tokens = 8 (raise it)" in log
    assert "every group had equal rewards" in log
    assert "the learning rate was 0" not in log
    assert not (run_dir / "adapter").exists()


def test_a_reward_that_fails_on_completions_ends_a_short_run_with_its_own_exit_code(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(tiny_model_dir, tmp_path)
    (tmp_path / "reward.py").write_text(
        "def vowels(completion, row):\n"
        "    if 'The final answer is' in completion: return 1.0\n"
        "    raise KeyError('topic')\n"
    )
    run_dir = prepared_run(recipe, tmp_path / "run")
    assert train(run_dir, check=False) == RewardError.exit_code
    log = (run_dir / "train.log").read_text()
    assert "16 of 16 completions could not be verified" in log
    assert "reward.py:vowels raised KeyError: 'topic', on row train-" in log
    assert "equal rewards" not in log
    assert not (run_dir / "adapter").exists()
    assert train(run_dir, check=False) == RewardError.exit_code  # the training is not finished


def test_a_finished_run_is_not_trained_again(trained: Path) -> None:
    before = rewards_of(trained)
    train(trained)
    assert rewards_of(trained) == before


def test_a_longer_training_continues_a_finished_one(trained: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(trained, run_dir)
    tree = json.loads((run_dir / "recipe.json").read_text())
    longer = tree | {"name": "longer", "training": tree["training"] | {"max_steps": 3}}
    (run_dir / "recipe.json").write_text(json.dumps(longer))

    train(run_dir)

    assert len(rewards_of(run_dir)) == 3
    assert (run_dir / "checkpoints" / "step-3" / "COMMITTED.json").exists()


def test_a_run_does_not_resume_with_an_edited_reward(trained: Path, tmp_path: Path) -> None:
    run_dir, edited = tmp_path / "run", tmp_path / "reward.py"
    shutil.copytree(trained, run_dir)
    tree = json.loads((run_dir / "recipe.json").read_text())
    edited.write_text(REWARD)
    tree["rewards"]["vowels"]["function"] = f"{edited}:vowels"
    recipe = parse_recipe(tree)
    assert train_here(recipe, run_dir, run_dir / "data")  # a copy of the same file

    edited.write_text(REWARD.replace("aeiou", "xyz"))
    with pytest.raises(
        CheckpointError, match=r"rewards.vowels.function: the content of .* changed"
    ):
        train_here(recipe, run_dir, run_dir / "data")


def test_a_run_does_not_resume_with_other_weights_of_the_same_name(
    trained: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    run_dir, model = tmp_path / "run", tmp_path / "model"
    shutil.copytree(trained, run_dir)
    shutil.copytree(tiny_model_dir, model)
    tree = json.loads((run_dir / "recipe.json").read_text())
    recipe = parse_recipe(tree | {"model": tree["model"] | {"name": str(model)}})
    assert train_here(recipe, run_dir, run_dir / "data")

    weights = load_file(model / "model.safetensors")
    save_file({name: -tensor for name, tensor in weights.items()}, model / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model.name: the content of .* has changed"):
        train_here(recipe, run_dir, run_dir / "data")


def test_a_run_does_not_resume_with_other_rows(trained: Path, tmp_path: Path) -> None:
    """Former training rows could be among the new test rows."""
    run_dir = tmp_path / "run"
    shutil.copytree(trained, run_dir)
    recipe = parse_recipe(json.loads((run_dir / "recipe.json").read_text()))
    prepare(recipe.model_copy(update={"seed": recipe.seed + 1}), run_dir / "data")
    with pytest.raises(CheckpointError, match="trained on other rows"):
        train_here(recipe, run_dir, run_dir / "data")


def test_a_stopped_run_commits_a_step_and_resumes_from_it(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(tiny_model_dir, tmp_path, "training.max_steps=400")
    run_dir = prepared_run(recipe, tmp_path / "run")
    trainer = start(main, ["train", "--run", str(run_dir)], run_dir / "train.log")
    deadline = time.monotonic() + 180
    while not rewards_of(run_dir) and time.monotonic() < deadline:
        time.sleep(0.1)
    trainer.terminate()
    assert trainer.wait() == 143
    stopped_at = len(rewards_of(run_dir))
    marker = run_dir / "checkpoints" / f"step-{stopped_at}" / "COMMITTED.json"
    assert json.loads(marker.read_text())["step"] == stopped_at
    assert not (run_dir / "adapter").exists()

    shorter = recipe.model_copy(
        update={"training": recipe.training.model_copy(update={"max_steps": stopped_at + 1})}
    )
    (run_dir / "recipe.json").write_text(shorter.model_dump_json())
    assert train(run_dir, check=False) == 4  # another recipe does not resume from these checkpoints


@pytest.fixture(scope="module")
def trained_on_one_rank(
    tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("one-rank")
    run_dir = prepared_run(recipe_for(tiny_model_dir, folder), folder / "run")
    train(run_dir, program=main_with_fixed_completions)
    return load_file(run_dir / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_ranks_learn_what_one_rank_does(
    trained_on_one_rank: dict[str, torch.Tensor], tiny_model_dir: Path, tmp_path: Path, stage: int
) -> None:
    recipe = recipe_for(
        tiny_model_dir, tmp_path, f"training.zero_stage={stage}", "training.per_device_batch_size=4"
    )
    run_dir = prepared_run(recipe, tmp_path / "run")
    train(run_dir, num_ranks=2, program=main_with_fixed_completions)
    assert len(rewards_of(run_dir)) == 2
    adapter = load_file(run_dir / "adapter" / "adapter_model.safetensors")
    assert adapter.keys() == trained_on_one_rank.keys()
    for name, expected in trained_on_one_rank.items():
        assert (adapter[name] - expected).norm() <= 1e-2 * expected.norm(), name


def test_qlora_finds_gradients_after_an_evaluation(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Guard against bitsandbytes' packing, which on a CPU would leave none (and only warn)."""
    recipe = recipe_for(
        tiny_model_dir,
        tmp_path,
        "quantization={compute_dtype: fp32, storage_dtype: fp32}",
        "training.validation_steps=1",
    )
    run_dir = prepared_run(recipe, tmp_path / "run")
    train(run_dir)
    events = read_events(run_dir / "metrics.jsonl")
    assert [e["step"] for e in events if e["event"] == "evaluation"] == [1, 2]
    gradients = [event["grad_norm"] for event in events if event["event"] == "step"]
    assert all(gradient > 0 for gradient in gradients)
    _assert_merged_equals_adapter(recipe, run_dir)


def test_a_merged_model_answers_as_the_adapter_does(trained: Path, tmp_path: Path) -> None:
    recipe = Recipe.model_validate_json((trained / "recipe.json").read_text())
    _assert_merged_equals_adapter(recipe, trained)
    target = publish(trained, tmp_path / "published", merge=True)
    published = load_model(recipe.model.model_copy(update={"name": str(target)}))
    embedding, head = published.get_input_embeddings(), published.get_output_embeddings()
    assert embedding.weight.data_ptr() == head.weight.data_ptr()  # tied before, tied after
    assert "GRPO" in (target / "README.md").read_text()


def _assert_merged_equals_adapter(recipe: Recipe, run_dir: Path) -> None:
    tokenizer = load_tokenizer(recipe.model)
    batch = tokenizer(["Question: what is 2 + 2?\nSolution:"], return_tensors="pt")
    adapter = load_adapter(load_model(recipe.model, recipe.quantization), run_dir / "adapter")
    with torch.no_grad():
        expected = adapter.eval()(**batch).logits
        merged = merged_model(recipe, run_dir / "adapter").eval()(**batch).logits
        base = load_model(recipe.model, recipe.quantization).eval()(**batch).logits
    torch.testing.assert_close(merged, expected, atol=1e-4, rtol=1e-4)
    assert (expected - base).abs().max() > 1e-4  # otherwise the comparison would show nothing


def test_a_run_resumes_between_two_generations_as_if_it_had_not_stopped(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Train twice on each batch; the checkpoint of step 1 lies between the two."""
    recipe = recipe_for(
        tiny_model_dir,
        tmp_path,
        "training.max_steps=4",
        "training.keep_checkpoints=4",
        "training.num_validation_rows=0",
        "grpo.num_iterations=2",
    )
    whole = prepared_run(recipe, tmp_path / "whole")
    train(whole)
    events = [e for e in read_events(whole / "metrics.jsonl") if e["event"] == "step"]
    assert [event["step"] for event in events] == [1, 2, 3, 4]
    assert ["reward" in event for event in events] == [True, False, True, False]

    resumed = tmp_path / "resumed"
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "adapter")
    for step in (2, 3, 4):
        shutil.rmtree(resumed / "checkpoints" / f"step-{step}")
    train(resumed)
    expected, actual = (
        load_file(run_dir / "adapter" / "adapter_model.safetensors") for run_dir in (whole, resumed)
    )
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name
    assert not list((whole / "adapter").glob("rollout*"))


def test_a_run_whose_weights_overflow_has_diverged(tiny_model_dir: Path, tmp_path: Path) -> None:
    recipe = recipe_for(
        tiny_model_dir,
        tmp_path,
        *("training.learning_rate=1e20", "training.warmup_ratio=0", "training.max_steps=4"),
    )
    run_dir = prepared_run(recipe, tmp_path / "run")
    assert train(run_dir, check=False) == Diverged.exit_code
    log = (run_dir / "train.log").read_text()
    assert "logits are not finite (NaN or infinite) after 1 steps" in log
    assert "lower training.learning_rate" in log
