import json
import re
from pathlib import Path

import pytest
from tests.small_model import save_tiny_llama, small_tokenizer

from rlvr_components.jobs.local_process import LocalBackend
from rlvr_pipelines.pipeline.run_plan import measure, plan_local
from rlvr_trainer import api
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.reader import load_recipe, parse_recipe
from rlvr_trainer.recipe.schema import Recipe


def tiny(*overrides: str) -> Recipe:
    return load_recipe(Path(__file__).parents[2] / "tiny.yaml", overrides)


def test_the_rows_are_counted_and_the_lengths_estimated() -> None:
    sizes = measure(
        tiny(
            "data.num_train_rows=100",
            "data.num_test_rows=20",
            "sampling.num_generations=4",
            "training.per_device_batch_size=8",
            "training.gradient_accumulation_steps=2",
        )
    )

    assert sizes.num_rows["test"] == 20
    assert (sizes.completions_per_step, sizes.questions_per_step) == (16, 4)
    assert sizes.num_steps == 20
    assert sizes.num_evaluated == 20
    assert 10 < sizes.question_tokens < 60


def test_the_first_prompt_is_shown_as_the_model_gets_it(smollm2_dir: Path) -> None:
    chat = ("prompt.style=chat", "prompt.num_shots=1")
    prompt = measure(tiny(*chat)).prompt
    assert prompt.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert measure(tiny()).prompt.endswith("\nSolution:")


def test_without_the_models_files_the_messages_are_shown() -> None:
    elsewhere = tiny("prompt.style=chat", "model={name: a/b, revision: c}", "prompt.system=Add.")
    prompt = measure(elsewhere).prompt
    assert prompt.startswith("[system] Add.\n[user] ")
    assert "\n[assistant] " in prompt


def test_a_chat_with_a_system_message_of_its_own_is_a_question_in_full(tmp_path: Path) -> None:
    """It does not begin with the recipe's header."""
    system = {"role": "system", "content": "Be brief."}
    asked = ({"role": "user", "content": f"What is {n} + 7?"} for n in range(99))
    rows = [{"messages": [system, message], "answer": 7} for message in asked]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    recipe = tiny("prompt={style: chat, num_shots: 0}", "task=question-answer")
    recipe = parse_recipe(recipe.model_dump() | {"data": {"train": str(tmp_path / "rows.json")}})
    sizes = measure(recipe)
    assert sizes.header_tokens > 20  # SmolLM2's own system message
    assert sizes.question_tokens == pytest.approx(len(sizes.prompt) / 3.6, abs=2)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("prompt.chat_options={enable_thinkin: no}", "does not read 'enable_thinkin'"),
        ("prompt.chat_template=/nowhere/own.jinja", "own.jinja cannot be read"),
    ],
)
def test_a_template_that_does_not_fit_is_refused(override: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        plan_local(tiny("prompt.style=chat", override), Path("runs/tiny"))


def test_the_readmes_chat_recipes_are_planned(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text("utf-8")
    section = readme.partition("## Chat models")[2].partition("\n## ")[0]
    whole, thinking = re.findall(r"```yaml\n(.*?)```", section, re.S)
    (tmp_path / "chat.yaml").write_text(whole)
    (tmp_path / "thinking.yaml").write_text(f"extends: chat.yaml\n{thinking}")
    assert "Think first" in measure(load_recipe(tmp_path / "chat.yaml")).prompt
    prompt = measure(load_recipe(tmp_path / "thinking.yaml")).prompt
    assert prompt.endswith("<|im_start|>assistant\n<think>\n")
    assert prompt.count("\n</think>\n#### The final answer is") == 2


def test_a_base_model_has_no_chat_template(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path, small_tokenizer())
    base = tiny("prompt.style=chat", f"model.name={tmp_path}")
    with pytest.raises(ConfigError, match=r"has no chat template; set prompt\.chat_template"):
        plan_local(base, Path("runs/tiny"))
    with pytest.raises(ConfigError, match=r"has no chat template; set prompt\.chat_template"):
        api.prepare(base, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_without_max_steps_the_epochs_decide() -> None:
    sizes = measure(
        tiny(
            "data.num_train_rows=108",
            "training.max_steps=null",
            "training.num_epochs=2",
            "training.per_device_batch_size=16",
            "training.gradient_accumulation_steps=1",
        )
    )

    assert sizes.num_rows["train"] == 90
    assert sizes.num_steps == 2 * (90 // 2)


def test_a_plan_says_that_one_step_with_a_warm_up_learns_nothing() -> None:
    one_epoch = (
        "data.num_train_rows=20",
        "training.max_steps=null",
        "training.gradient_accumulation_steps=1",
        "training.per_device_batch_size=64",
        "sampling.num_generations=8",
    )
    with pytest.raises(ConfigError, match="its learning rate is 0"):
        measure(tiny(*one_epoch))
    assert measure(tiny(*one_epoch, "training.warmup_ratio=0")).num_steps == 1


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("lora.target_modules=[nope]", "names nope, but .* no such linear layers"),
        ("lora.target_modules=[q_proj, kproj]", r"names kproj, .* \(did you mean 'k_proj'\?\)"),
        ("model.context_length=9000", "has 8192 positions; lower it to 8192"),
    ],
)
def test_a_plan_refuses_what_the_model_does_not_have(override: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        plan_local(tiny("model.name=embedded:smollm2-135m-instruct", override), Path("runs/x"))


def test_each_batch_is_trained_on_num_iterations_times() -> None:
    once = ("data.num_train_rows=108", "training.max_steps=null")
    assert (
        measure(tiny(*once, "grpo.num_iterations=4")).num_steps
        == 4 * measure(tiny(*once)).num_steps
    )
    cut = tiny(*once, "grpo.steps_per_generation=8")  # of 4 micro-steps that make a step
    whole = tiny(*once, "training.gradient_accumulation_steps=8")
    assert measure(cut).num_steps == 2 * measure(whole).num_steps


def test_a_shared_header_counts_once() -> None:
    shared = measure(tiny("shared_prefix='on'"))
    plain = measure(tiny("shared_prefix='off'"))

    per_completion = plain.header_tokens + plain.question_tokens
    assert plain.tokens_per_step == plain.completions_per_step * (per_completion + 40)
    assert shared.tokens_per_step < plain.tokens_per_step


def test_rows_elsewhere_are_not_fetched_for_a_plan() -> None:
    planned = plan_local(tiny("data.train=s3://bucket/rows.jsonl"), Path("runs/x"))

    assert planned.sizes is None
    assert planned.facts()["sizes"] is None


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("def f(completion, row): return row['topic']", "raised KeyError: 'topic', on row train-"),
        ("def f(completion, row): pass", "returned None, not a finite number, on row train-"),
        ("def g(completion, row): return 1", "has no 'f'"),
    ],
)
def test_a_plan_tries_the_rewards(tmp_path: Path, body: str, cause: str) -> None:
    (tmp_path / "mine.py").write_text(body)
    recipe = tiny(f"rewards.mine={{function: '{tmp_path}/mine.py:f'}}")
    with pytest.raises(ConfigError) as caught:
        plan_local(recipe, Path("runs/x"))
    assert cause in str(caught.value)
    assert "rewards.mine.function" in str(caught.value)


def test_a_plan_loads_rewards_where_the_rows_are_elsewhere() -> None:
    with pytest.raises(ConfigError, match=r"rewards\.mine\.function: .* is not installed"):
        plan_local(
            tiny("data.train=s3://bucket/rows.jsonl", "rewards.mine={function: 'no_such:f'}"),
            Path("runs/x"),
        )


def test_a_plan_asks_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr_trainer.grpo.trl_refusals.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install vllm"):
        plan_local(tiny("grpo.use_vllm=true"), Path("runs/x"))


def test_the_planned_recipe_is_submitted() -> None:
    planned = plan_local(tiny(), Path("runs/x"))

    assert planned.rendered == LocalBackend().render(planned.job)
    assert planned.job.command[-1] == str(Path("runs/x").resolve())
