"""Define the recipe: everything that decides the result of a run, as one frozen, validated tree.

`reader` reads it from YAML; here are its fields and the rules between them. A rule that would
otherwise fail minutes later on a GPU fails here. Nothing in this module imports torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from rlvr_trainer.recipe.row_source import check_source
from rlvr_trainer.recipe.suggest import did_you_mean
from rlvr_trainer.verifiers import (
    ANSWER_MARKER,
    DEFAULTS,
    STOP,
    VERIFIERS,
    AnswerPlace,
    Format,
    Number,
    Verifier,
)
from rlvr_trainer.verifiers.answer_place import PlaceKind, solution_template

EMBEDDED_PREFIX = "embedded:"

AttackName = Literal[
    "gold", "empty", "no-answer", "do-not-know", "prompt", "long-text", "open-tags", "most-common",
    "other-answer", "question-content", "all-options", "many-answers", "look-alikes",
    "solution-only",
]  # fmt: skip
"""Gold completions, and those that should earn nothing, see `reward_check.attacks`."""

RunName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,22}[a-z0-9])?$")]
PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


NOTHING_LEARNT_IN_ONE_STEP = (
    "there is one step, and with a warm-up its learning rate is 0, so nothing is learnt; set "
    "training.warmup_ratio to 0, or train for more steps"
)


class Section(BaseModel):
    """A part of the recipe: immutable; unknown fields are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


def added(default: Any) -> Any:
    """Return a field of a later release: a dump without it is the same as before that release.

    So the identity of a recipe that does not set it stays.
    """
    return Field(default=default, exclude_if=lambda value: value == default)


class ColumnsSection(Section):
    """Columns of the data by the name that a task reads; nested fields by dots (`a.b`)."""

    question: str = ""
    """Column of the question, such as `problem`; empty: `question`."""
    answer: str = ""
    """Column of the gold answer, such as `reward_model.ground_truth`; empty: `answer`."""
    solution: str = ""
    """Column of the worked text; empty: `solution`, if there is one."""

    @property
    def renamed(self) -> dict[str, str]:
        """Name that a task reads → column of the data, for those that differ."""
        return {name: column for name, column in self if column and column != name}


class DataSection(Section):
    """Source of the rows and their splits."""

    train: str = ""
    """Training rows: a file (JSONL, a JSON array, CSV, TSV or Parquet), a folder of such files or a
    pattern (`rows/train-*.parquet`), on a disk or `s3://bucket/key`; or
    `hub://owner/name@revision?config=…&split=…`. Empty: the task's own rows."""
    test: str = ""
    """Test rows, likewise. Empty: the task's own, or `test_fraction` of the training rows when
    `train` is given."""
    test_fraction: Fraction = 0.1
    """Share of `train` that is held out for the test when `train` is given without `test`."""
    validation_fraction: Fraction = 0.1
    """Share of the training rows that validates during training, chosen by the seed."""
    num_train_rows: PositiveInt | None = None
    """Rows to generate (a generated task) or the maximum to keep (a data set)."""
    num_test_rows: PositiveInt | None = None
    """Test rows to generate, or the maximum to keep."""
    num_exemplars: Annotated[int, Field(ge=0)] = 8
    """Training rows set aside as the worked examples that open every prompt."""
    select: tuple[str, ...] = ()
    """Ids of the rows to train on (`train-12`); empty: all."""
    repeat_to_batch: bool = False
    """Repeat the selected rows until they fill one generation batch."""
    max_quarantined_fraction: Fraction = 0.01
    """The data step fails when a larger share of the rows is unusable."""
    columns: ColumnsSection = added(ColumnsSection())

    @field_validator("train", "test")
    @classmethod
    def _is_a_source(cls, value: str) -> str:
        check_source(value)
        return value

    @model_validator(mode="after")
    def _renames_what_is_read(self) -> Self:
        if self.columns.renamed and not (self.train or self.test):
            raise ValueError(
                "columns without rows to read: a task's own rows have the names that it reads; "
                "set data.train, or leave data.columns out"
            )
        return self

    @model_validator(mode="after")
    def _repeats_a_selection(self) -> Self:
        if self.repeat_to_batch and not self.select:
            raise ValueError(
                "repeat_to_batch: true without rows to repeat; name them in data.select"
            )
        return self


class PromptSection(Section):
    """Layout of a row as a prompt. The header (system, all shots) is the same in every prompt."""

    style: Literal["text", "chat"] = added("text")
    """`text`: one text, for a base model. `chat`: messages in the form of the model's own chat
    template, for an instruct model; the completion ends at the end of the assistant's turn."""
    num_shots: Annotated[int, Field(ge=0)] = 8
    """Worked examples before the question, while training."""
    question_template: str = "Question: {question}\nSolution:"
    """The question; may use `{question}` and any other column of the row. With examples as turns
    `{question}` alone is the default."""
    solution_template: str = " {solution}\n#### The final answer is {answer}"
    """Text of a worked example after its question, with the answer at its place. By default the
    marker or the other place is the one set here, with `thinking_end` before it. With examples as
    turns the default does not begin with a blank."""
    separator: str = "\n\n"
    """Text between two worked examples, and between the last one and the question; not between
    turns."""
    system: str = added("")
    """Chat: the system message; empty: none, or the template's own. A row's own one replaces it."""
    examples_as: Literal["turns", "message"] = added("turns")
    """Chat: worked examples as turns of user and assistant, or in the user's message before the
    question, which every template can put."""
    assistant_prefix: str = added("")
    """Chat: the beginning of every answer, which the prompt ends with (`<think>\\n`), written once
    if the template writes it too. Verifiers and examples see it before the completion."""
    chat_template: str = added("")
    """Chat: a Jinja file that replaces the model's own template, and is published with it."""
    chat_options: dict[str, Any] = added({})
    """Chat: variables that the template reads, such as `enable_thinking: false`."""
    answer_place: PlaceKind = added("marker")
    """Place of the one answer: the line that begins with `answer_marker`, a `\\boxed{}`, between
    `<answer_tag>` and `</answer_tag>`, or all of the text. Several answers count as none."""
    answer_marker: str = ANSWER_MARKER
    """Beginning of the line that gives the answer; must match exactly."""
    answer_tag: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")] = added(
        "answer"
    )
    """Name of the tag around the answer, without brackets."""
    thinking_end: str = added("")
    """Text that ends the thinking, such as `</think>`: the answer is read after its one occurrence,
    and thinking that does not end gives none. Empty: all of the completion is read."""
    stop: str = STOP
    """Beginning of a line that ends the completion, such as that of a next question; chat: none by
    default."""

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, tree: Any) -> Any:
        """Set the defaults that depend on the style and on the place of the answer."""
        if not isinstance(tree, Mapping):
            return tree
        is_chat = tree.get("style") == "chat"
        in_turns = is_chat and tree.get("examples_as", "turns") == "turns"
        defaults = {"stop": ""} if is_chat else {}
        if in_turns:
            defaults["question_template"] = "{question}"
        kind, *texts = (
            tree.get(name, cls.model_fields[name].default)
            for name in ("answer_place", "answer_marker", "answer_tag", "thinking_end")
        )
        if all(isinstance(value, str) for value in (kind, *texts)):
            template = solution_template(kind, *texts)
            defaults["solution_template"] = template.lstrip(" ") if in_turns else template
        return {**defaults, **tree}

    @property
    def place(self) -> AnswerPlace:
        """The place where the answers of completions are read."""
        return AnswerPlace(
            self.answer_place, self.answer_marker, self.answer_tag, self.thinking_end, self.stop
        )

    @field_validator("question_template")
    @classmethod
    def _asks(cls, value: str) -> str:
        if "{question}" not in value:
            raise ValueError(
                f"{value!r} does not hold {{question}}; add it where the question goes"
            )
        return value

    @field_validator("stop", "answer_marker")
    @classmethod
    def _one_line(cls, value: str, info: ValidationInfo) -> str:
        is_off = not value and info.field_name == "stop" and info.data.get("style") == "chat"
        if not is_off and (not value.strip() or "\n" in value):
            raise ValueError(f"{value!r} must be one line that is not blank")
        return value

    @field_validator("answer_marker")
    @classmethod
    def _opens_a_line(cls, value: str) -> str:
        if value != value.lstrip():
            raise ValueError(
                f"{value!r} begins with a blank, but lines are read without surrounding blanks; "
                f"write {value.lstrip()!r}"
            )
        return value

    @field_validator("chat_options")
    @classmethod
    def _left_to_the_recipe(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name in OWNED_CHAT_OPTIONS:
                raise ValueError(
                    f"{name!r} is set by the recipe; set {OWNED_CHAT_OPTIONS[name]} instead"
                )
        return value

    @model_validator(mode="after")
    def _only_in_chats(self) -> Self:
        if self.style == "chat":
            return self
        for name, instead in CHAT_FIELDS.items():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r} has no effect on a text prompt; set "
                    f"prompt.style to chat, or {instead}"
                )
        return self


CHAT_FIELDS = {
    "system": "write it into prompt.question_template",
    "examples_as": "leave it out",
    "assistant_prefix": "write it at the end of prompt.question_template",
    "chat_template": "leave it out",
    "chat_options": "leave them out",
}
"""Fields of the prompt that only a chat has → what to do in a text prompt."""

OWNED_CHAT_OPTIONS = {
    "conversation": "data.train",
    "conversations": "data.train",
    "messages": "data.train",
    "chat_template": "prompt.chat_template",
    "add_generation_prompt": "prompt.assistant_prefix",
    "continue_final_message": "prompt.assistant_prefix",
    "return_assistant_tokens_mask": "nothing: prompts are never trained on",
}
"""Arguments of `apply_chat_template` that the recipe sets → what to set instead."""


class RewardSection(Section):
    """A reward without options: your function, or the built-in `format` or `correctness`."""

    weight: float = 1.0
    """Factor on what the function returns."""
    function: str = ""
    """Your `package.module:function` or `file.py:function`; empty: the built-in of this name. It
    takes (completion, row), or as in TRL (prompts, completions, **columns), and may be async."""
    timeout_s: Annotated[float, Field(gt=0)] | None = added(None)
    """Time limit of one call of your function, which then runs in worker processes; over it, the
    completion could not be verified and the worker is killed. null: in this process, no limit."""

    @model_validator(mode="after")
    def _limits_a_function(self) -> Self:
        if self.timeout_s and not self.function:
            raise ValueError(
                "timeout_s limits the calls of your own function; set function, or leave it out"
            )
        return self


_VERIFIERS: Mapping[str, type[Verifier]] = {
    model.model_fields["verifier"].default: model for model in VERIFIERS
}
REWARD_KINDS: Mapping[str, type[BaseModel]] = {"function": RewardSection, **_VERIFIERS}
"""Name of a verifier, or `function` → the fields of a reward."""


def _reward_kind(value: Any) -> str:
    named = value.get("verifier") if isinstance(value, dict) else getattr(value, "verifier", "")
    return named if isinstance(named, str) and named in _VERIFIERS else "function"


if TYPE_CHECKING:
    AnyReward = RewardSection | Verifier
else:
    AnyReward = Annotated[
        Union[  # noqa: UP007
            tuple(Annotated[model, Tag(kind)] for kind, model in REWARD_KINDS.items())
        ],
        Discriminator(_reward_kind),
    ]
"""A reward of a recipe: a function, or a verifier with its options."""


class ModelSection(Section):
    """The model that is trained."""

    name: str
    """`embedded:smollm2-135m-instruct`, a hub id (`Qwen/Qwen2.5-0.5B`), a directory or `s3://…`."""
    revision: str = ""
    """Commit of a hub model; required there, so that a run can be repeated."""
    dtype: Literal["bf16", "fp32"] = "bf16"
    """Type of the weights and of the computation."""
    context_length: PositiveInt = 2048
    """Prompt and completion together, in tokens; longer rows are quarantined."""

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if self.is_hub_id and not self.revision:
            raise ValueError(
                f"name {self.name!r} is a hub id without a revision, and what it means can change; "
                "set model.revision to a commit (a directory begins with / or ./)"
            )
        return self

    @property
    def is_hub_id(self) -> bool:
        return not self.name.startswith((EMBEDDED_PREFIX, "s3://", "/", "./", "../", "~"))


class LoraSection(Section):
    """The trained adapter of a frozen model."""

    r: PositiveInt = 16
    """Rank."""
    alpha: PositiveInt = 16
    """Scale: the update is multiplied by alpha / r."""
    dropout: Fraction = 0.0
    """Dropout on the adapter's input; above 0 the old and the new policy differ by chance."""
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    """Linear layers that get an adapter, by the end of their names."""

    @field_validator("target_modules")
    @classmethod
    def _trainable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(target.rpartition(".")[2] == "lm_head" for target in value):
            raise ValueError(
                "an adapter on 'lm_head' would never be trained, because TRL computes "
                "log-probabilities from its weight directly; leave it out"
            )
        return value


class QuantizationSection(Section):
    """QLoRA: the frozen weights in 4 bits (bitsandbytes)."""

    type: Literal["nf4", "fp4"] = "nf4"
    """The 4-bit code."""
    double: bool = True
    """Quantise the scales too."""
    compute_dtype: Literal["bf16", "fp32"] = "bf16"
    """Type to which weights are unpacked for a matrix product."""
    storage_dtype: Literal["bf16", "fp32", "uint8"] = "bf16"
    """Type in which packed weights are stored; ZeRO-3 shards only floating types."""


class SamplingSection(Section):
    """Sampling of completions while training."""

    num_generations: Annotated[int, Field(ge=2)] = 8
    """Completions of one prompt: the group whose mean reward is the baseline."""
    max_completion_tokens: PositiveInt = 256
    """Maximum length of a completion."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """1: the policy itself."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """1: all of the distribution."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """0: all tokens."""
    min_p: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Minimum probability of a token, as a share of the likeliest one's; 0: all tokens."""


class TrainingSection(Section):
    """The optimisation."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    """Peak learning rate of AdamW."""
    num_epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the training rows, unless `max_steps` is set."""
    max_steps: PositiveInt | None = None
    """Optimizer steps; takes precedence over `num_epochs`."""
    per_device_batch_size: PositiveInt = 16
    """Completions in one forward pass of one device."""
    gradient_accumulation_steps: PositiveInt = 1
    """Forward passes in one optimizer step."""
    warmup_ratio: Fraction = 0.1
    """Share of the steps in which the learning rate rises."""
    lr_scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """Schedule of the learning rate after the warm-up."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Norm to which the gradient is clipped."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of AdamW."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: less memory, a third more work."""
    zero_stage: Literal[0, 2, 3] = 0
    """DeepSpeed ZeRO when several processes train; 0: plain data parallelism."""
    save_steps: PositiveInt = 50
    """Optimizer steps between two committed checkpoints; the last step is always committed."""
    keep_checkpoints: PositiveInt = 2
    """Number of committed checkpoints to keep."""
    validation_steps: PositiveInt | None = None
    """Steps between two greedy evaluations of the validation rows; null: only after the last."""
    num_validation_rows: Annotated[int, Field(ge=0)] = 64
    """Validation rows that are evaluated, chosen by the seed; 0: none."""
    max_verifier_failures: Fraction = 0.05
    """The run fails when a larger share of the completions could not be verified."""

    @model_validator(mode="after")
    def _learns(self) -> Self:
        if self.max_steps == 1 and self.begins_at_zero:
            raise ValueError(NOTHING_LEARNT_IN_ONE_STEP)
        return self

    @property
    def begins_at_zero(self) -> bool:
        """True if the first step has learning rate 0, as with any warm-up."""
        return self.warmup_ratio > 0 and self.lr_scheduler != "constant"


class PassAtKSection(Section):
    """Sampled evaluation beside the greedy one."""

    num_samples: PositiveInt = 16
    """Completions of each row, n."""
    k: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 4, 16)
    """The k of pass@k, each at most n."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling temperature."""

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        if max(self.k) > self.num_samples:
            raise ValueError(
                f"pass@{max(self.k)} needs at least {max(self.k)} samples, num_samples is "
                f"{self.num_samples}; raise num_samples or lower k"
            )
        return self


class EvaluationSection(Section):
    """The greedy evaluation of the base and of the trained model on the same prompts."""

    shots: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Numbers of shots to evaluate at; empty: the trained one."""
    correct_by: str = "correctness"
    """The judge: the reward that is above 0 if a completion is correct."""
    num_rows: PositiveInt | None = None
    """Test rows to evaluate, chosen by the seed; null: all of them."""
    max_completion_tokens: PositiveInt | None = None
    """Maximum length of a completion; null: as in training."""
    batch_size: PositiveInt = 64
    """Prompts in a batch."""
    pass_at_k: PassAtKSection | None = None
    """Also sample, and report pass@k."""
    accept_attacks: tuple[AttackName, ...] = added(())
    """Findings of `rlvr reward check` to accept, by the attacks that they name; `gold`: a gold
    completion need not earn a reward."""

    @field_validator("shots")
    @classmethod
    def _each_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"{list(value)} names a number twice; list it once")
        return value


class Recipe(Section):
    """One run, from data to report."""

    name: RunName
    """Name of the run and of what it creates: at most 24 of a-z, 0-9 and -, no - at the ends."""
    description: str = ""
    """One sentence for the reader."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seed of the splits, the order of the rows, the adapter's start and the sampling."""
    task: str = "gsm8k"
    """`gsm8k`, `arithmetic`, `question-answer`, or `package.module:Class`, `file.py:Class`."""
    data: DataSection = DataSection()
    prompt: PromptSection = PromptSection()
    rewards: dict[str, AnyReward] = {"format": RewardSection(), "correctness": RewardSection()}
    """Their weighted sum is the reward; by default `format` and `correctness`, which are the
    verifiers `format` and `number`. A file's rewards replace those of the recipe that it extends;
    `--set rewards.NAME.weight=…` changes one."""
    model: ModelSection
    lora: LoraSection | None = LoraSection()
    """null: all weights are trained."""
    quantization: QuantizationSection | None = None
    """null: the model stays in its own type."""
    sampling: SamplingSection = SamplingSection()
    training: TrainingSection = TrainingSection()
    grpo: dict[str, Any] = {}
    """Other fields of TRL's GRPOConfig (`beta`, `loss_type`, `entropy_coef`, …), passed on."""
    shared_prefix: Literal["on", "off"] = "on"
    """Compute what prompts have in common once; off: plain TRL."""
    evaluation: EvaluationSection = EvaluationSection()

    @field_validator("rewards", mode="before")
    @classmethod
    def _verified(cls, value: Any) -> Any:
        for name, reward in value.items() if isinstance(value, dict) else ():
            if not isinstance(reward, dict):
                continue
            verifier = reward.get("verifier")
            if verifier is None:
                options = _options_of(name, reward)
                if options:
                    raise ValueError(
                        f"{name}.{options[0]} is an option of the verifier {options[1]!r}; also "
                        f"set rewards.{name}.verifier: {options[1]}"
                    )
            elif verifier not in _VERIFIERS:
                raise ValueError(
                    f"{name}.verifier = {verifier!r} is not a verifier ({', '.join(_VERIFIERS)})"
                    f"{did_you_mean(str(verifier), _VERIFIERS)}; for your own, set "
                    f"rewards.{name}.function"
                )
            elif reward.get("function"):
                raise ValueError(
                    f"{name} has both a verifier ({verifier}) and a function "
                    f"({reward['function']}); leave one of them out"
                )
        return value

    @field_validator("rewards")
    @classmethod
    def _rewarded(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not value:
            raise ValueError("no reward, so nothing to learn; name at least one")
        for name, reward in value.items():
            if isinstance(reward, RewardSection) and not reward.function and name not in DEFAULTS:
                raise ValueError(
                    f"{name!r} is not a built-in reward ({', '.join(DEFAULTS)})"
                    f"{did_you_mean(name, DEFAULTS)}; set rewards.{name}.verifier "
                    f"({', '.join(_VERIFIERS)}), or rewards.{name}.function for your own"
                )
        return value

    @field_validator("grpo")
    @classmethod
    def _known_to_trl(cls, value: dict[str, Any]) -> dict[str, Any]:
        fields = grpo_fields()
        for name in value:
            if name in OWNED_GRPO_FIELDS:
                raise ValueError(
                    f"{name!r} is set by the recipe; set {OWNED_GRPO_FIELDS[name]} instead"
                )
            if name not in fields:
                raise ValueError(
                    f"{name!r} is not a field of TRL's GRPOConfig{did_you_mean(name, fields)}"
                )
        value = {name: _of_type(name, fields[name], given) for name, given in value.items()}
        if "repetition_penalty" in value and not value.get("use_vllm"):
            raise ValueError(
                "'repetition_penalty' works with vLLM only; leave it out "
                "or set grpo.use_vllm to true"
            )
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        shots, exemplars = (
            max((*self.evaluated_shots, self.prompt.num_shots)),
            self.data.num_exemplars,
        )
        if shots > exemplars:
            raise ValueError(
                f"{shots} shots, but data.num_exemplars sets only {exemplars} rows aside; "
                f"raise it to {shots} or lower the shots"
            )
        batch, group = self.device_generation_batch_size, self.sampling.num_generations
        if batch % group:
            raise ValueError(
                f"a batch of {batch} completions (training.per_device_batch_size × "
                "gradient_accumulation_steps) is not divisible by sampling.num_generations = "
                f"{group}; take {batch - batch % group or group} or {batch + group - batch % group}"
            )
        for where, tokens in (
            ("sampling", self.sampling.max_completion_tokens),
            ("evaluation", self.evaluation_max_completion_tokens),
        ):
            if tokens >= self.model.context_length:
                raise ValueError(
                    f"{where}.max_completion_tokens = {tokens} leaves no room for a prompt in "
                    f"model.context_length = {self.model.context_length}; lower it"
                )
        judge = self.evaluation.correct_by
        if judge not in {*self.rewards, "correctness"}:
            raise ValueError(
                f"evaluation.correct_by = {judge!r} is not one of the rewards "
                f"({', '.join(self.rewards)}){did_you_mean(judge, self.rewards)}"
            )
        verifier = self.verifier_of(judge)
        if verifier and verifier.best <= 0:
            raise ValueError(
                f"evaluation.correct_by = {judge!r} is the verifier {verifier.verifier!r}, whose "
                "reward is never above 0, so that no completion would be correct; name another"
            )
        marker, stop = self.prompt.answer_marker, self.prompt.stop
        if stop and self._reads_marker and (marker.startswith(stop) or stop.startswith(marker)):
            raise ValueError(
                f"prompt.stop = {stop!r} and prompt.answer_marker = {marker!r} begin the same "
                "line, so a completion ends before its answer and is never rewarded; set "
                "prompt.stop to the beginning of the next question"
            )
        if self.grpo.get("use_vllm"):
            self._fits_vllm()
        if self.grpo.get("sync_ref_model") and (self.lora or not self.grpo.get("beta")):
            raise ValueError(
                "grpo.sync_ref_model needs a reference model, which TRL keeps only without lora "
                "and with grpo.beta above 0; leave it out"
            )
        if self.quantization and not self.lora:
            raise ValueError("quantization without lora: 4-bit weights cannot be trained; add lora")
        return self

    def _fits_vllm(self) -> None:
        if self.quantization:
            raise ValueError(
                "grpo.use_vllm with quantization: TRL cannot send 4-bit weights to vLLM; leave one "
                "of them out (the shipped recipe gsm8k-bf16 trains without quantization)"
            )
        sampling = self.sampling
        truncated = [
            f"{name} = {value:g}"
            for name, value, off in (
                ("top_p", sampling.top_p, 1.0),
                ("top_k", sampling.top_k, 0),
                ("min_p", sampling.min_p, 0.0),
            )
            if value != off
        ]
        if truncated and self.grpo.get("vllm_importance_sampling_correction", True):
            raise ValueError(
                f"grpo.use_vllm with sampling.{', sampling.'.join(truncated)}: vLLM's "
                "log-probabilities are of the remaining tokens, TRL 1.16's of all tokens, so that "
                "importance ratios are too small; leave out the truncation or grpo.use_vllm"
            )

    @property
    def _reads_marker(self) -> bool:
        """True if a verifier that reads the answer's line rewards or judges."""
        names = {*self.rewards, self.evaluation.correct_by}
        verifiers = filter(None, map(self.verifier_of, names))
        return self.prompt.answer_place == "marker" and any(
            verifier.reads_answer for verifier in verifiers
        )

    def verifier_of(self, name: str) -> Verifier | None:
        """Return the verifier by which a reward judges, None if it is the user's function.

        A reward that the recipe does not name, or names without options, is the built-in of this
        name.
        """
        reward = self.rewards.get(name)
        if isinstance(reward, Verifier):
            return reward
        return None if name in self.user_functions else DEFAULTS[name]

    @property
    def answer_kind(self) -> Verifier:
        """The verifier that says what a well-formed answer is: the first that reads answers."""
        verifiers = filter(None, map(self.verifier_of, self.rewards))
        kinds = (
            verifier
            for verifier in verifiers
            if verifier.reads_answer and not isinstance(verifier, Format)
        )
        return next(kinds, Number())

    @property
    def user_functions(self) -> dict[str, RewardSection]:
        """The rewards by a function of the user's."""
        return {
            name: reward
            for name, reward in self.rewards.items()
            if isinstance(reward, RewardSection) and reward.function
        }

    @property
    def evaluated_shots(self) -> tuple[int, ...]:
        return self.evaluation.shots or (self.prompt.num_shots,)

    @property
    def evaluation_max_completion_tokens(self) -> int:
        return self.evaluation.max_completion_tokens or self.sampling.max_completion_tokens

    @property
    def device_generation_batch_size(self) -> int:
        """Completions that one device generates for one optimizer step."""
        return self.training.per_device_batch_size * self.training.gradient_accumulation_steps

    @property
    def hash(self) -> str:
        """Twelve hex digits of everything that decides the result (not the description)."""
        canonical = self.model_dump_json(exclude={"description"})
        ordered = json.dumps(json.loads(canonical), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(ordered.encode()).hexdigest()[:12]


def _options_of(name: str, reward: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return (option, verifier) of the first field that only a verifier has.

    The default verifier of the reward's name counts first.
    """
    own = DEFAULTS[name].verifier if name in DEFAULTS else ""
    ordered = sorted(_VERIFIERS, key=lambda verifier: verifier != own)
    for field in reward:
        for verifier in ordered if field not in RewardSection.model_fields else ():
            if field in _VERIFIERS[verifier].model_fields and field != "verifier":
                return field, verifier
    return None


OWNED_GRPO_FIELDS: Mapping[str, str] = {
    "output_dir": "the run directory (--run-dir)",
    "seed": "seed",
    "data_seed": "seed",
    "num_generations": "sampling.num_generations",
    "max_completion_length": "sampling.max_completion_tokens",
    "temperature": "sampling.temperature",
    "top_p": "sampling.top_p",
    "top_k": "sampling.top_k",
    "min_p": "sampling.min_p",
    "reward_weights": "rewards.NAME.weight",
    "learning_rate": "training.learning_rate",
    "num_train_epochs": "training.num_epochs",
    "max_steps": "training.max_steps",
    "per_device_train_batch_size": "training.per_device_batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "warmup_steps": "training.warmup_ratio",
    "lr_scheduler_type": "training.lr_scheduler",
    "max_grad_norm": "training.max_grad_norm",
    "weight_decay": "training.weight_decay",
    "activation_checkpointing": "training.gradient_checkpointing",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "deepspeed": "training.zero_stage",
    "fsdp": "training.zero_stage",
    "fsdp_config": "training.zero_stage",
    "ds3_gather_for_generation": "nothing: every rank gathers the weights to draw completions",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "save_strategy": "training.save_steps",
    "save_steps": "training.save_steps",
    "save_total_limit": "training.keep_checkpoints",
    "eval_strategy": "training.validation_steps",
    "eval_steps": "training.validation_steps",
    "logging_steps": "nothing: every step is logged in metrics.jsonl",
    "logging_strategy": "nothing: every step is logged in metrics.jsonl",
    "remove_unused_columns": "nothing: rewards see every column",
    "use_cpu": "nothing: a GPU is used where there is one",
    "generation_kwargs": "sampling",
    "trust_remote_code": "nothing: a model's own code is not run",
    "cache_implementation": "nothing: completions are drawn by rlvr or by vLLM",
    "use_transformers_continuous_batching": "grpo.use_vllm",
    "transformers_continuous_batching_config": "grpo.use_vllm",
}
"""GRPOConfig's fields that the recipe sets → what to set instead."""


_MAX_LISTED = 10
"""Values of a field that an error lists."""

_SCALARS = {"bool": bool, "int": int, "float": float, "str": str, "None": None}


def _of_type(name: str, declared: str, value: Any) -> Any:
    """Return `value` as the type that GRPOConfig declares, unchanged if that is not a scalar.

    A quoted type is a text that TRL knows; GRPOConfig itself takes any.
    """
    kinds = declared.split(" | ")
    if not all(kind in _SCALARS or kind.startswith("'") for kind in kinds):
        return value
    known: Any = Union[  # noqa: UP007
        tuple(_SCALARS[kind] if kind in _SCALARS else Literal[kind.strip("'")] for kind in kinds)
    ]
    try:
        return TypeAdapter(known, config=ConfigDict(allow_inf_nan=False)).validate_python(value)
    except ValidationError:
        texts = [kind.strip("'") for kind in kinds if kind not in _SCALARS]
        if len(kinds) > _MAX_LISTED:
            declared = f"{' | '.join(kinds[:_MAX_LISTED])} | … ({len(kinds)} values)"
        raise ValueError(
            f"{name!r} is {declared} in TRL's GRPOConfig, got {value!r}"
            f"{did_you_mean(str(value), texts)}"
        ) from None


@cache
def grpo_fields() -> Mapping[str, str]:
    """Return name → type of the fields of the pinned GRPOConfig, without importing torch."""
    text = files("rlvr_trainer").joinpath("grpo_fields.json").read_text("utf-8")
    fields: dict[str, str] = json.loads(text)
    return fields
