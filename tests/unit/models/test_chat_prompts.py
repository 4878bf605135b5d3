"""Compare prompts of chats with transformers' `apply_chat_template`, text and tokens."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tests.chat_templates import KINDS, Kind, chat_tokenizer
from tests.small_model import save_tiny_llama, small_tokenizer
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.evaluation.completions import cut
from rlvr_trainer.models import chat_prompts
from rlvr_trainer.models.chat_prompts import (
    chat_template,
    end_of_turn,
    local_chat_template,
    prompt_ids,
)
from rlvr_trainer.recipe.reader import parse_recipe
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.shared_prefix.packed_layout import common_prefix_length
from rlvr_trainer.tasks import Row
from rlvr_trainer.tasks.prompt import PromptLayout

SYSTEM = "Solve it.\nEnd with the answer."
EXEMPLARS = [
    Row("train-1", "What is 1 + 1?", "2", "<think>\nOne more\n</think>\n1 + 1 = 2."),
    Row("train-2", "  What is 2 + 2?", "4", "2 + 2 = 4."),
]
ROWS = [Row("train-3", "Who has 30 eggs?", "6"), Row("train-4", "Who has 3 eggs?\n", "9")]


def recipe_for(**prompt: Any) -> Recipe:
    return parse_recipe(
        {
            "name": "chat",
            "model": {"name": "./model"},
            "prompt": {"style": "chat", "num_shots": 2, **prompt},
        }
    )


def chat(row: Row, system: str, num_shots: int) -> list[dict[str, str]]:
    """Return the messages of a row with examples as turns, as one would write them by hand."""
    messages = [{"role": "system", "content": system}] if system else []
    for shown in EXEMPLARS[:num_shots]:
        solution = f"{shown.solution}\n#### The final answer is {shown.answer}"
        messages.append({"role": "user", "content": shown.question})
        messages.append({"role": "assistant", "content": solution})
    return [*messages, {"role": "user", "content": row.question}]


def prompts_of(recipe: Recipe, tokenizer: Any, rows: list[Row] = ROWS) -> list[str]:
    layout = PromptLayout(recipe.prompt, EXEMPLARS, chat_template(recipe, tokenizer))
    return [layout.prompt(row) for row in rows]


@pytest.mark.parametrize(
    ("name", "system", "num_shots"),
    [
        case
        for case in product(KINDS, ("", SYSTEM), (0, 2))
        if KINDS[case[0]].puts_system or not case[1]
    ],
)
def test_prompts_equal_apply_chat_template_token_by_token(
    name: str, system: str, num_shots: int
) -> None:
    kind, tokenizer = KINDS[name], chat_tokenizer(KINDS[name])
    recipe = recipe_for(system=system, num_shots=num_shots, chat_options=dict(kind.options))

    prompts = prompts_of(recipe, tokenizer)
    ids = prompt_ids(tokenizer, prompts, "chat")

    options: Any = {"add_generation_prompt": True, **dict(kind.options)}
    for row, prompt, tokens in zip(ROWS, prompts, ids, strict=True):
        messages = chat(row, system, num_shots)
        assert prompt == tokenizer.apply_chat_template(messages, tokenize=False, **options)
        assert tokens == tokenizer.apply_chat_template(messages, **options)["input_ids"]
        if kind.adds_bos:
            assert tokens.count(tokenizer.bos_token_id) == 1
            assert tokens[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("name", KINDS)
def test_the_shared_prefix_holds_system_and_examples(name: str) -> None:
    """It ends inside the questions, where the first token differs: `Who has 30`, `Who has 3`."""
    kind, tokenizer = KINDS[name], chat_tokenizer(KINDS[name])
    system = SYSTEM if kind.puts_system else ""
    recipe = recipe_for(system=system, chat_options=dict(kind.options))

    ids = prompt_ids(tokenizer, prompts_of(recipe, tokenizer), "chat")

    shared = common_prefix_length(ids)
    assert [row[:shared] for row in ids] == [ids[0][:shared]] * 2
    assert ids[0][shared] != ids[1][shared]
    text = tokenizer.decode(ids[0][:shared])
    assert text.endswith("Who has")
    for said in (system, "1 + 1 = 2.", "2 + 2 = 4.\n#### The final answer is 4"):
        assert said in text


@pytest.mark.parametrize("name", KINDS)
def test_a_completion_ends_with_the_assistants_turn(name: str) -> None:
    kind, tokenizer = KINDS[name], chat_tokenizer(KINDS[name])
    recipe = recipe_for(chat_options=dict(kind.options))
    ends = end_of_turn(tokenizer, chat_template(recipe, tokenizer))
    assert ends == {tokenizer.convert_tokens_to_ids(kind.end_of_turn)}

    ids = [*tokenizer(text="It is 4.", add_special_tokens=False)["input_ids"], *ends]
    completion = cut(ids, tokenizer, "", ends)
    assert (completion.text, completion.finished) == ("It is 4.", True)
    assert completion.token_ids == ids


def test_an_end_of_turn_that_the_tokenizer_does_not_call_special_is_not_in_the_text() -> None:
    tokenizer = chat_tokenizer(KINDS["qwen-2.5-base"])
    tokenizer.add_tokens(["<eot>"])
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<eot>")
    ends = end_of_turn(tokenizer, chat_template(recipe_for(), tokenizer))
    ids = tokenizer(text="It is 4.<eot>", add_special_tokens=False)["input_ids"]
    assert cut(ids, tokenizer, "", ends).text == "It is 4."


def test_a_template_that_ends_a_turn_by_text_adds_no_end() -> None:
    tokenizer = chat_tokenizer(KINDS["qwen-2.5"])
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    assert end_of_turn(tokenizer, chat_template(recipe_for(), tokenizer)) == set()


@pytest.mark.parametrize("name", KINDS)
def test_examples_in_the_users_message_suit_every_template(name: str) -> None:
    kind, tokenizer = KINDS[name], chat_tokenizer(KINDS[name])
    recipe = recipe_for(examples_as="message", chat_options=dict(kind.options))
    [prompt, _] = prompts_of(recipe, tokenizer)
    message = (
        "Question: What is 1 + 1?\nSolution: <think>\nOne more\n</think>\n1 + 1 = 2."
        "\n#### The final answer is 2\n\n"
        "Question:   What is 2 + 2?\nSolution: 2 + 2 = 4.\n#### The final answer is 4\n\n"
        "Question: Who has 30 eggs?\nSolution:"
    )
    assert prompt == tokenizer.apply_chat_template(
        [{"role": "user", "content": message}],
        tokenize=False,
        add_generation_prompt=True,
        **dict(kind.options),
    )


def test_the_assistants_beginning_is_written_once() -> None:
    tokenizer = chat_tokenizer(KINDS["qwen-3"])
    recipe = recipe_for(assistant_prefix="<think>\n", num_shots=0)
    [prompt, _] = prompts_of(recipe, tokenizer)
    assert prompt.endswith("<|im_start|>assistant\n<think>\n")
    tokenizer.chat_template += "{{ '<think>\n' }}"
    assert prompts_of(recipe, tokenizer)[0] == prompt


def test_the_assistants_beginning_opens_the_examples_and_what_verifiers_see() -> None:
    layout = PromptLayout(recipe_for(assistant_prefix="Well, ").prompt, EXEMPLARS)
    assert layout.completion(EXEMPLARS[1]) == "Well, 2 + 2 = 4.\n#### The final answer is 4"
    assert layout.messages(ROWS[0])[3]["content"] == layout.completion(EXEMPLARS[1])


def test_a_row_brings_its_own_messages() -> None:
    own = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "What is 5 + 5?"},
    ]
    row = Row("train-9", "What is 5 + 5?", "10", messages=own)  # type: ignore[arg-type]
    layout = PromptLayout(recipe_for(system=SYSTEM, num_shots=1).prompt, EXEMPLARS)
    shown = chat(row, "", 1)[:2]
    assert layout.messages(row) == [own[0], *shown, *own[1:]]
    assert layout.messages(row, 0) == own


def tokenizer_that_adds(single: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer.from_str(small_tokenizer().backend_tokenizer.to_str())
    tokenizer.add_special_tokens(["<bos>"])
    tokenizer.post_processor = TemplateProcessing(
        single=single, special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("<bos>", "<end>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<end>", pad_token="<end>"
    )


@pytest.mark.parametrize("single", ["<bos> $A", "<bos> $A <end>"])
def test_a_text_has_its_beginning_once_and_no_end(single: str) -> None:
    tokenizer = tokenizer_that_adds(single)
    bare = tokenizer(text="Question: 1?", add_special_tokens=False)["input_ids"]
    expected = [tokenizer.bos_token_id, *bare]
    prompts = ["Question: 1?", "<bos>Question: 1?"]
    assert prompt_ids(tokenizer, prompts, "text") == [expected, expected]


def test_a_text_is_tokenized_as_ever_where_the_tokenizer_adds_nothing() -> None:
    tokenizer = small_tokenizer()
    texts = ["Question: 1?", ""]
    assert prompt_ids(tokenizer, texts, "text") == tokenizer(text=texts)["input_ids"]


def refused(kind: Kind, match: str, **prompt: Any) -> None:
    tokenizer = chat_tokenizer(kind)
    with pytest.raises(ConfigError, match=match):
        chat_template(recipe_for(**{"chat_options": dict(kind.options), **prompt}), tokenizer)


def test_a_model_without_a_template_is_refused() -> None:
    refused(Kind("", "<eot>", ()), r"\./model has no chat template; set prompt.chat_template")


def test_the_default_of_several_templates_is_taken() -> None:
    tokenizer = chat_tokenizer(KINDS["qwen-3"])
    tokenizer.chat_template = {"tool_use": "{{ 1 }}", "default": tokenizer.chat_template}
    [prompt, _] = prompts_of(recipe_for(), tokenizer)
    assert prompt == tokenizer.apply_chat_template(
        chat(ROWS[0], "", 2), tokenize=False, add_generation_prompt=True
    )
    tokenizer.chat_template = {"tool_use": "{{ 1 }}"}
    with pytest.raises(ConfigError, match="has no chat template"):
        chat_template(recipe_for(), tokenizer)


def test_a_template_without_a_place_for_a_system_message_is_refused() -> None:
    complaint = r"no place for a system message \(it says: System role not supported\); leave"
    refused(KINDS["gemma"], complaint, system=SYSTEM)


def test_a_template_that_leaves_out_the_system_message_is_refused() -> None:
    others = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    complaint = r"no place for a system message \(it leaves out the system's\)"
    refused(Kind(others, "<eot>", ()), complaint, system=SYSTEM)


def test_a_template_for_one_question_only_is_refused_with_examples_as_turns() -> None:
    one = "{% if messages|length > 1 %}{{ raise_exception('One turn only') }}{% endif %}"
    kind = Kind(one + "{{ messages[0].content }}", "<eot>", ())
    refused(kind, r"worked examples as turns \(it says: One turn only\); set prompt.examples_as")
    for prompt in ({"examples_as": "message"}, {"num_shots": 0}):
        assert chat_template(recipe_for(**prompt), chat_tokenizer(kind))


def test_evaluated_shots_count_too() -> None:
    one = "{% if messages|length > 1 %}{{ raise_exception('One turn only') }}{% endif %}"
    tokenizer = chat_tokenizer(Kind(one + "{{ messages[0].content }}", "<eot>", ()))
    recipe = parse_recipe(recipe_for(num_shots=0).model_dump() | {"evaluation": {"shots": [0, 4]}})
    with pytest.raises(ConfigError, match=r"evaluation\.shots to 0"):
        chat_template(recipe, tokenizer)


def test_a_template_that_is_not_jinja_is_refused() -> None:
    refused(Kind("{% for m in messages %}", "<eot>", ()), "cannot put a user's message")


def test_an_option_that_the_template_does_not_read_is_refused() -> None:
    complaint = r"does not read 'enable_thinkin' \(did you mean 'enable_thinking'\?\)"
    refused(KINDS["qwen-3"], complaint, chat_options={"enable_thinkin": False})


@pytest.mark.parametrize("source", ["", "{{ strftime_now('%d') }}"])
def test_a_template_that_writes_the_days_date_is_refused(source: str) -> None:
    kind = KINDS["llama-3"]
    if source:
        kind = Kind(source + KINDS["smollm2"].template, "<|im_end|>", ())
    refused(kind, "writes the day's date.*{date_string:", chat_options={})


def test_a_template_is_found_by_the_models_files_as_by_its_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client without transformers leaves the check to the data step."""
    tokenizer = chat_tokenizer(KINDS["mistral"])
    save_tiny_llama(tmp_path, tokenizer)
    recipe = parse_recipe(recipe_for().model_dump() | {"model": {"name": str(tmp_path)}})
    known, loaded = local_chat_template(recipe), chat_template(recipe, tokenizer)
    assert known is not None
    assert loaded is not None
    messages: Any = chat(ROWS[0], SYSTEM, 2)
    assert known.prompt(messages) == loaded.prompt(messages)
    monkeypatch.setattr(chat_prompts, "find_spec", lambda name: None)
    assert local_chat_template(recipe) is None
