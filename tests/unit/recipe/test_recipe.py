from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.reader import load_recipe, parse_recipe, shipped_recipes
from rlvr_trainer.recipe.schema import CHAT_FIELDS, OWNED_GRPO_FIELDS, grpo_fields

SHIPPED = shipped_recipes()


def load(source: str, *overrides: str):
    return load_recipe(source, overrides)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_is_valid_and_named_as_its_file(name: str) -> None:
    recipe = load(name)
    assert recipe.name == name
    assert recipe.description


def test_gsm8k_is_the_published_recipe() -> None:
    recipe = load("gsm8k")
    assert (recipe.model.name, len(recipe.model.revision)) == ("Qwen/Qwen2.5-0.5B", 40)
    assert recipe.model.context_length == 2048
    training = recipe.training
    assert (training.learning_rate, training.num_epochs) == (1.84e-4, 2)
    assert (training.per_device_batch_size, training.gradient_accumulation_steps) == (16, 2)
    assert (training.warmup_ratio, training.lr_scheduler) == (0.1, "cosine")
    assert training.zero_stage == 3
    assert recipe.lora is not None
    assert (recipe.lora.r, recipe.lora.alpha) == (16, 16)
    assert set(recipe.lora.target_modules) == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    assert recipe.quantization is not None
    assert recipe.quantization.model_dump() == {
        "type": "nf4",
        "double": True,
        "compute_dtype": "bf16",
        "storage_dtype": "bf16",
    }
    assert recipe.prompt.num_shots == 8
    assert recipe.sampling.model_dump() == {
        "num_generations": 8,
        "max_completion_tokens": 256,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
    }
    assert (recipe.grpo["beta"], recipe.grpo["loss_type"]) == (0.04, "bnpo")


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("prompt.num_shotz=3", "unknown field (did you mean 'num_shots'?)"),
        ("trainings.max_steps=3", "unknown field (did you mean 'training'?)"),
        (
            "prompt.system=Hi",
            "system = 'Hi' has no effect on a text prompt; set prompt.style to chat",
        ),
        ("prompt.chat_options={a: 1}", "no effect on a text prompt"),
        ("prompt.examples_as=message", "no effect on a text prompt"),
        ("prompt.stop=''", "must be one line that is not blank"),
        (
            "prompt={style: chat, chat_options: {add_generation_prompt: true}}",
            "'add_generation_prompt' is set by the recipe; set prompt.assistant_prefix instead",
        ),
        ("sampling.num_generations=7", "not divisible by sampling.num_generations = 7"),
        ("sampling.num_generations=1", "greater than or equal to 2"),
        ("prompt.num_shots=12", "data.num_exemplars sets only 8 rows aside"),
        ("evaluation.shots=[16]", "16 shots"),
        ("grpo.betta=0.1", "not a field of TRL's GRPOConfig (did you mean 'beta'?)"),
        ("grpo.beta=abc", "'beta' is float in TRL's GRPOConfig, got 'abc'"),
        ("grpo.epsilon=.nan", "'epsilon' is float"),
        ("training.learning_rate=.inf", "finite number"),
        ("evaluation.shots=[8,8]", "names a number twice"),
        ("evaluation.correct_by=corectness", "(did you mean 'correctness'?)"),
        ("evaluation.pass_at_k={k: []}", "at least 1 item"),
        ("grpo.temperature=0.7", "set sampling.temperature instead"),
        ("grpo.min_p=0.1", "set sampling.min_p instead"),
        ("grpo.loss_type=bnp", "got 'bnp' (did you mean 'bnpo'?)"),
        ("grpo.importance_sampling_level=tokens", "'token' | 'sequence'"),
        ("grpo.scale_rewards=groups", "(did you mean 'group'?)"),
        ("grpo.vllm_mode=serve", "(did you mean 'server'?)"),
        ("grpo.optim=adamw_torhc", "got 'adamw_torhc' (did you mean 'adamw_torch'?)"),
        ("grpo.sync_ref_model=true", "needs a reference model, which TRL keeps only without lora"),
        ("grpo.trust_remote_code=true", "a model's own code is not run"),
        ("grpo.use_vllm=true", "TRL cannot send 4-bit weights to vLLM"),
        ("lora.target_modules=[q_proj, lm_head]", "an adapter on 'lm_head' would never be trained"),
        ("lora.target_modules=[]", "at least 1 item"),
        ("training.max_steps=1", "its learning rate is 0, so nothing is learnt"),
        ("grpo.repetition_penalty=1.1", "works with vLLM only"),
        ("grpo.cache_implementation=static", "completions are drawn by rlvr or by vLLM"),
        ("grpo.ds3_gather_for_generation=false", "every rank gathers the weights"),
        ("rewards.corectness.weight=1", "(did you mean 'correctness'?)"),
        ("rewards={}", "nothing to learn"),
        ("model.revision=", "hub id without a revision"),
        ("model.context_length=200", "leaves no room for a prompt"),
        ("lora=null", "4-bit weights cannot be trained"),
        ("data.repeat_to_batch=true", "without rows to repeat"),
        ("training.learning_rate=fast", "got 'fast'"),
        ("training.learning_rate=-1", "greater than 0"),
        ("name=My Run", "got 'My Run'"),
        ("name=a-name-that-is-far-too-long-for-a-service", "String should match pattern"),
        ("evaluation.pass_at_k={num_samples: 4, k: [8]}", "pass@8 needs at least 8 samples"),
        ("prompt.question_template=What?", "does not hold {question}"),
        ("prompt.stop=' '", "must be one line"),
        ("prompt.stop='####'", "a completion ends before its answer"),
        ("prompt.stop='#### The final answer is 4'", "set prompt.stop to"),
        ("prompt.answer_marker=' ####'", "begins with a blank"),
    ],
)
def test_an_invalid_recipe_fails_at_once(override: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as error:
        load("gsm8k", override)
    assert complaint in str(error.value)
    assert "Traceback" not in str(error.value)


def test_a_wrong_recipe_name_is_answered_with_the_right_one() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'arithmetic'\?"):
        load("aritmetic")


@pytest.mark.parametrize("override", ["novalue", "=3"])
def test_an_override_without_a_value_says_how_it_is_written(override: str) -> None:
    with pytest.raises(ConfigError, match=r"section\.field=value"):
        load("arithmetic", override)


def test_a_number_in_scientific_notation_is_a_number() -> None:
    assert load("arithmetic", "training.learning_rate=3e-4").training.learning_rate == 3e-4
    assert load("arithmetic", "grpo.epsilon=2e-1").grpo["epsilon"] == 0.2


def test_a_penalty_is_for_vllm_which_knows_it() -> None:
    recipe = load("arithmetic", "grpo.repetition_penalty=1.1", "grpo.use_vllm=true")
    assert recipe.grpo["repetition_penalty"] == 1.1


@pytest.mark.parametrize("override", ["top_p=0.9", "top_k=20", "min_p=0.1"])
def test_vllm_does_not_draw_from_a_truncated_distribution(override: str) -> None:
    """TRL 1.16 multiplies each importance ratio by the remaining probability mass."""
    arguments = ["grpo.use_vllm=true", f"sampling.{override}"]
    name, value = override.split("=")
    with pytest.raises(ConfigError, match=f"sampling.{name} = {value}: .* importance ratios"):
        load("gsm8k-bf16", *arguments)
    load("gsm8k-bf16", f"sampling.{override}")  # our own sampling
    load("gsm8k-bf16", *arguments, "grpo.vllm_importance_sampling_correction=false")


def test_vllm_may_draw_for_the_published_recipe_in_bf16() -> None:
    published, sibling = load("gsm8k"), load("gsm8k-bf16", "grpo.use_vllm=true")
    assert sibling.quantization is None
    own = {"name", "description", "quantization", "grpo"}
    assert sibling.model_dump(exclude=own) == published.model_dump(exclude=own)


@pytest.mark.parametrize("override", ["training.warmup_ratio=0", "training.lr_scheduler=constant"])
def test_one_step_without_warm_up_learns(override: str) -> None:
    assert load("arithmetic", "training.max_steps=1", override).training.max_steps == 1


def test_an_option_of_trl_has_its_own_type() -> None:
    grpo = load("arithmetic", "grpo.mask_truncated_completions=no", "grpo.num_iterations=2").grpo
    assert grpo["mask_truncated_completions"] is False
    assert grpo["num_iterations"] == 2


def test_the_weight_of_one_reward_leaves_the_others() -> None:
    rewards = load("arithmetic", "rewards.format.weight=0.2").rewards
    assert {name: reward.weight for name, reward in rewards.items()} == {
        "format": 0.2,
        "correctness": 1.0,
    }


@pytest.mark.parametrize("text", ["#### A", "Q:", "2024-01-01", "1:30", "12"])
def test_a_field_of_text_takes_what_is_typed(text: str) -> None:
    assert load("arithmetic", f"prompt.stop={text}").prompt.stop == text


@pytest.mark.parametrize(
    ("text", "steps"), [("010", 10), ("+3", 3), ("1e1", 10), ("10.", 10), ("-1", None)]
)
def test_numbers_are_decimal(text: str, steps: int | None) -> None:
    if steps is None:
        with pytest.raises(ConfigError, match="greater than 0"):
            load("arithmetic", f"training.max_steps={text}")
    else:
        assert load("arithmetic", f"training.max_steps={text}").training.max_steps == steps


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("extends: arithmetic\ntraining: {max_steps: 5}\ntraining: {seed: 1}\n")
    with pytest.raises(ConfigError, match="the key 'training' is there twice"):
        load(str(path))


def test_a_chat_has_defaults_of_its_own() -> None:
    turns = load("arithmetic", "prompt.style=chat").prompt
    assert (turns.question_template, turns.stop) == ("{question}", "")
    assert turns.solution_template == "{solution}\n#### The final answer is {answer}"
    message = load("arithmetic", "prompt={style: chat, examples_as: message}").prompt
    assert message.question_template == load("arithmetic").prompt.question_template
    assert message.stop == ""
    own = load("arithmetic", "prompt={style: chat, stop: 'Q:', question_template: '{question}!'}")
    assert (own.prompt.stop, own.prompt.question_template) == ("Q:", "{question}!")
    assert parse_recipe(own.model_dump()) == own


def test_a_text_prompt_is_dumped_as_before_there_were_chats() -> None:
    dumped = load("arithmetic").model_dump()["prompt"]
    assert not dumped.keys() & {"style", *CHAT_FIELDS}


def test_the_published_recipe_in_chat_form_differs_in_the_form_only() -> None:
    base, chat = load("gsm8k"), load("gsm8k-chat")
    assert (chat.model.name, len(chat.model.revision)) == ("Qwen/Qwen2.5-0.5B-Instruct", 40)
    own = ("name", "description", "prompt", "model")
    assert chat.model_dump(exclude={*own}) == base.model_dump(exclude={*own})


def test_a_stop_that_begins_the_answers_line_needs_a_users_reward() -> None:
    own = ("prompt.stop='####'", "rewards={mine: {function: 'm:f'}}")
    assert load("arithmetic", *own, "evaluation.correct_by=mine").prompt.stop == "####"
    with pytest.raises(ConfigError, match="a completion ends before its answer"):
        load("arithmetic", *own)
    with pytest.raises(ConfigError, match="a completion ends before its answer"):
        load("arithmetic", *own, "rewards.format={}", "evaluation.correct_by=mine")


def test_merge_keys_are_read(tmp_path: Path) -> None:
    path = tmp_path / "merged.yaml"
    path.write_text(
        "extends: arithmetic\n"
        "rewards:\n"
        "  format: &half\n"
        "    weight: 0.5\n"
        "  correctness: &two\n"
        "    <<: *half\n"
        "    weight: 2\n"
        "  mine:\n"
        "    <<: [*two, *half]\n"
        "    function: m:f\n"
    )
    rewards = load(str(path)).rewards
    assert {name: reward.weight for name, reward in rewards.items()} == {
        "format": 0.5, "correctness": 2, "mine": 2,
    }  # fmt: skip


def test_a_merged_key_may_be_replaced_and_a_key_that_stands_twice_is_still_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "merged.yaml"
    path.write_text(
        "extends: arithmetic\n"
        "rewards: {format: {weight: 1}, correctness: {<<: {weight: 2}, weight: 3}}\n"
        "prompt: {<<: {num_shots: 2}, num_shots: 1}\n"
    )
    recipe = load(str(path))
    assert recipe.rewards["correctness"].weight == 3
    assert recipe.prompt.num_shots == 1
    for twice in ("{weight: 1, weight: 2}", "{<<: {weight: 1}, <<: {weight: 2}}"):
        path.write_text(f"extends: arithmetic\nrewards: {{format: {twice}}}\n")
        with pytest.raises(ConfigError, match="is there twice"):
            load(str(path))


def test_on_and_off_are_words() -> None:
    assert load("arithmetic", "shared_prefix=off").shared_prefix == "off"
    assert load("arithmetic", "training.gradient_checkpointing=true").training


def test_a_recipe_extends_another_and_paths_are_relative_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "extends: arithmetic\nname: mine\ntask: question-answer\ndata: {train: ./rows.jsonl}\n"
        "rewards: {brevity: {function: ./mine.py:brevity}}\n"
    )
    recipe = load(str(tmp_path / "mine.yaml"))
    assert recipe.data.train == str(tmp_path / "rows.jsonl")
    assert recipe.rewards["brevity"].function == f"{tmp_path}/mine.py:brevity"
    assert list(recipe.rewards) == ["brevity"]
    assert recipe.model == load("arithmetic").model


@pytest.mark.parametrize("prefix", ["", "./", "../here/"])
def test_a_path_means_the_same_with_and_without_its_dot(prefix: str, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "base.yaml").write_text("extends: arithmetic\n")
    (folder / "mine.yaml").write_text(
        f"extends: {prefix}base.yaml\ntask: {prefix}mine.py:Mine\n"
        f"data: {{test: {prefix}rows.jsonl}}\n"
        f"rewards: {{brevity: {{function: '{prefix}mine.py:brevity'}}}}\n"
    )
    recipe = load(str(folder / "mine.yaml"))
    assert recipe.task == f"{folder}/mine.py:Mine"
    assert recipe.data.test == f"{folder}/rows.jsonl"
    assert recipe.rewards["brevity"].function == f"{folder}/mine.py:brevity"


def test_paths_that_are_set_are_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load(
        "arithmetic",
        "model.name=./m",
        "data.train=./x.jsonl",
        "data={test: ../y.jsonl}",
        "rewards.r.function=./f.py:g",
        "rewards={s: {function: f.py:g}}",
        "task=./t.py:Mine",
    )
    assert recipe.model.name == f"{tmp_path}/m"
    assert recipe.data.test == f"{tmp_path.parent}/y.jsonl"
    assert recipe.rewards["s"].function == f"{tmp_path}/f.py:g"
    assert recipe.task == f"{tmp_path}/t.py:Mine"
    one = load("arithmetic", "rewards.r.function=./f.py:g", "data.train=x.jsonl")
    assert one.rewards["r"].function == f"{tmp_path}/f.py:g"
    assert one.data.train == f"{tmp_path}/x.jsonl"


def test_a_chat_template_is_beside_its_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: arithmetic\nprompt: {style: chat, chat_template: own.jinja}\n")
    assert load(str(path)).prompt.chat_template == str(tmp_path / "own.jinja")


def test_values_that_are_not_paths_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for given, expected in (
        ("data.train=s3://b/x.jsonl", "s3://b/x.jsonl"),
        ("data.train=hub://o/n@1", "hub://o/n@1"),
        ("data.train=/link/x.jsonl", "/link/x.jsonl"),
        ("data.train=''", ""),
        ("data.train=~/x.jsonl", "/home/me/x.jsonl"),
    ):
        assert load("arithmetic", given).data.train == expected
    assert load("arithmetic", "task=my.module:Task").task == "my.module:Task"
    hub = load("arithmetic", "model.name=owner/model", "model.revision=1")
    assert hub.model.name == "owner/model"


def test_extending_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "loop.yaml"
    path.write_text(f"extends: {path}\nname: loop\n")
    with pytest.raises(ConfigError, match="extends itself"):
        load(str(path))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("- a\n- b\n", "a recipe is a mapping"), ("a: [1\n", "is not YAML"), ("", "is a mapping")],
)
def test_a_file_that_is_not_a_recipe_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        load(str(tmp_path / "bad.yaml"))


def test_the_hash_is_of_what_decides_the_outcome() -> None:
    recipe = load("arithmetic")
    assert load("arithmetic", "description=other words").hash == recipe.hash
    assert load("arithmetic", "seed=7").hash != recipe.hash
    assert parse_recipe(recipe.model_dump(mode="json")).hash == recipe.hash


def test_the_known_grpo_fields_are_those_of_the_installed_trl() -> None:
    from trl import GRPOConfig

    assert set(grpo_fields()) == {field.name for field in dataclasses.fields(GRPOConfig)}
    assert set(OWNED_GRPO_FIELDS) <= set(grpo_fields())


def test_the_values_that_trl_knows_are_those_of_its_own_help() -> None:
    """GRPOConfig accepts any text, and only the first step would fail."""
    from trl import GRPOConfig

    for field in dataclasses.fields(GRPOConfig):
        known = set(re.findall(r"(\w+)'", grpo_fields()[field.name]))
        if known and field.name != "optim":
            quoted = set(re.findall(r"[`'](\w+)'", field.metadata["help"]))
            others = {"sequence"} if field.name == "loss_type" else set()  # of another field
            assert known == quoted - others, field.name
            assert field.default in known


def test_the_optimizers_are_those_of_the_installed_transformers() -> None:
    from transformers.training_args import OptimizerNames

    assert re.findall(r"'(\w+)'", grpo_fields()["optim"]) == [name.value for name in OptimizerNames]


def test_reading_a_recipe_does_not_import_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from rlvr_trainer.recipe.reader import *;"
        "load_recipe('gsm8k');"
        "assert not {'torch', 'transformers', 'trl'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
