"""Compare SharedPrefixGRPOTrainer with TRL's GRPOTrainer on the same completions."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import Linear as LoraLinear
from tests.forked_trainer import start
from tests.integration.shared_prefix_training import (
    HEADER,
    NUM_STEPS,
    Case,
    Matrix,
    Outcome,
    all_cases,
    assert_same_training,
    assert_trains_as_trl_does,
    character_model,
    equal,
    in_half_of_the_groups,
    name_of,
    pairwise_cases,
    train,
    train_cases_as_rank,
)
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from rlvr_trainer.shared_prefix import SharedPrefixGRPOTrainer, SharedPrefixMismatch
from rlvr_trainer.shared_prefix import grpo_trainer as trainer_module
from rlvr_trainer.shared_prefix.cpu import merged_linear, tree_attention

MATRIX: Matrix = {
    "weights": ("lora", "qlora", "full"),
    "checkpointing": (None, "reentrant", "non-reentrant"),
    "beta": (0.0, 0.1),
    "num_iterations": (1, 2),
    "loss": ("grpo", "dapo", "dr_grpo", "bnpo", "gspo"),
    "entropy_coef": (0.0, 0.01),
    "header": (HEADER, ""),
}
SIMPLE: Case = {name: values[0] for name, values in MATRIX.items()}
TWO_RANKS: Matrix = {"zero": (2, 3), **MATRIX, "weights": ("lora", "qlora")}
CASES_IN_A_LAUNCH = 20


@pytest.fixture(autouse=True)
def _silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func warns, warnings are errors


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return character_model(tmp_path_factory.mktemp("characters"))


@pytest.mark.parametrize("case", pairwise_cases(MATRIX), ids=name_of)
def test_it_trains_as_trl_does(case: Case, model_dir: Path, tmp_path: Path) -> None:
    assert_trains_as_trl_does(case, model_dir, tmp_path)


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", all_cases(MATRIX), ids=name_of)
def test_it_trains_as_trl_does_in_every_case(case: Case, model_dir: Path, tmp_path: Path) -> None:
    assert_trains_as_trl_does(case, model_dir, tmp_path)


def assert_ranks_train_as_trl_does(
    cases: list[Case],
    model_dir: Path,
    folder: Path,
    num_steps: int = NUM_STEPS,
    num_ranks: int = 2,
) -> None:
    """Train all cases in one launch, whose start dominates the cost; a single rank uses a GPU."""
    (folder / "cases.json").write_text(json.dumps(cases))
    arguments = [model_dir, folder / "cases.json", folder, num_steps]
    ranks = start(train_cases_as_rank, [*map(str, arguments)], folder / "log", num_ranks)
    assert ranks.wait() == 0, (folder / "log").read_text()[-3000:]
    for index, case in enumerate(cases):
        both = torch.load(folder / f"{index}.pt")
        print(name_of(case))  # shown when it fails
        assert_same_training(
            *(Outcome(**both[side.__name__]) for side in (SharedPrefixGRPOTrainer, GRPOTrainer))
        )


def test_two_ranks_under_zero_train_as_trl_does(model_dir: Path, tmp_path: Path) -> None:
    """Cover every pair with a stage; the rest is tested on one rank."""
    losses = ("grpo", "dapo", "gspo")
    cases = pairwise_cases(TWO_RANKS | {"loss": losses}, "zero")
    assert_ranks_train_as_trl_does(cases, model_dir, tmp_path, num_steps=2)


@pytest.mark.exhaustive
@pytest.mark.parametrize("start", range(0, len(all_cases(TWO_RANKS)), CASES_IN_A_LAUNCH))
def test_two_ranks_under_zero_train_as_trl_does_in_every_case(
    start: int, model_dir: Path, tmp_path: Path
) -> None:
    cases = all_cases(TWO_RANKS)[start : start + CASES_IN_A_LAUNCH]
    assert_ranks_train_as_trl_does(cases, model_dir, tmp_path)


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_sequences_without_advantage_are_left_out_where_they_have_no_gradient(
    beta: float, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = SIMPLE | {"beta": beta}
    left_out: list[int] = []
    packed = trainer_module.token_log_probs

    def counting(*args: Any, rows: torch.Tensor | None = None, **kwargs: Any) -> Any:
        if rows is not None:
            left_out.append(int((~rows).sum()))
        return packed(*args, rows=rows, **kwargs)

    monkeypatch.setattr(trainer_module, "token_log_probs", counting)
    assert_trains_as_trl_does(case, model_dir, tmp_path, reward=in_half_of_the_groups)
    assert (sum(left_out) > 0) == (beta == 0.0)


@pytest.mark.parametrize(
    "first_pass",
    [
        pytest.param({}, id="policy"),
        pytest.param({"num_iterations": 2}, id="old policy"),
        pytest.param({"beta": 0.1}, id="reference"),
        pytest.param({"beta": 0.1, "weights": "full"}, id="reference model"),
    ],
)
def test_a_packed_forward_that_differs_from_the_plain_one_stops_the_training_before_its_use(
    first_pass: Case, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = trainer_module.token_log_probs

    def wrong(*args: Any, **kwargs: Any) -> Any:
        log_probs, entropies = packed(*args, **kwargs)
        return log_probs * 1.001, entropies

    plain_loss = SharedPrefixGRPOTrainer._compute_loss

    def loss(trainer: Any, *args: Any) -> Any:
        assert not first_pass, "the first pass was used"
        return plain_loss(trainer, *args)

    monkeypatch.setattr(trainer_module, "token_log_probs", wrong)
    monkeypatch.setattr(SharedPrefixGRPOTrainer, "_compute_loss", loss)
    with pytest.raises(SharedPrefixMismatch, match="set shared_prefix to off"):
        train(SharedPrefixGRPOTrainer, SIMPLE | first_pass, model_dir, tmp_path)


def test_bfloat16s_rounding_passes_the_check_and_a_wrong_forward_does_not(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: Any = {"dtype": "bf16", "num_steps": 1}
    train(SharedPrefixGRPOTrainer, SIMPLE, model_dir, tmp_path, **options)
    parts = tree_attention._parts
    monkeypatch.setattr(
        tree_attention, "_parts", lambda layout: [p for p in parts(layout) if not p.folded]
    )  # only the header attends to the header
    with pytest.raises(SharedPrefixMismatch):
        train(SharedPrefixGRPOTrainer, SIMPLE, model_dir, tmp_path, **options)


@pytest.mark.parametrize("checkpointing", ["reentrant", "non-reentrant"])
def test_recomputed_layers_multiply_merged_and_all_are_pefts_own_after_the_step(
    checkpointing: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gradient: list[bool] = []
    multiply = merged_linear._multiply

    def counting(*args: Any) -> torch.Tensor:
        with_gradient.append(torch.is_grad_enabled())
        return multiply(*args)

    monkeypatch.setattr(merged_linear, "_multiply", counting)
    case = SIMPLE | {"weights": "lora", "checkpointing": None}
    train(SharedPrefixGRPOTrainer, case, model_dir, tmp_path, num_steps=1)
    without_checkpointing, in_policy_pass = len(with_gradient), sum(with_gradient)
    with_gradient.clear()
    case["checkpointing"] = checkpointing
    trainer = train(SharedPrefixGRPOTrainer, case, model_dir, tmp_path, num_steps=1)
    assert len(with_gradient) == without_checkpointing + in_policy_pass > in_policy_pass > 0
    classes = {type(module) for module in trainer.model.modules()}
    assert LoraLinear in classes
    assert merged_linear.MergedLoraLinear not in classes


def test_a_model_that_cannot_be_packed_takes_the_plain_path_and_says_why_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    windowed = character_model(tmp_path / "windowed", Qwen2ForCausalLM, Qwen2Config, **window)
    expected = Outcome.of(train(GRPOTrainer, SIMPLE, windowed, tmp_path))
    actual = Outcome.of(train(SharedPrefixGRPOTrainer, SIMPLE, windowed, tmp_path))
    assert actual.losses == expected.losses
    said = [r.message for r in caplog.records if "Shared prefixes are not used" in r.message]
    assert len(said) == 1
    assert "sliding window" in said[0]


@pytest.mark.parametrize(
    ("switched", "options"),
    [(True, {"cast_lm_head_to_fp32": True}), (False, {})],
    ids=["an option that needs the plain path", "switched off"],
)
def test_the_plain_path_is_trls(
    switched: bool,
    options: dict[str, Any],
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def packed(*_: Any, **__: Any) -> None:
        raise AssertionError("packed")

    monkeypatch.setattr(trainer_module, "token_log_probs", packed)
    ours = partial(SharedPrefixGRPOTrainer, shared_prefix=switched)
    case = SIMPLE | {"weights": "full", "beta": 0.1}
    expected, actual = (
        Outcome.of(train(trainer, case, model_dir, tmp_path, **options))
        for trainer in (GRPOTrainer, ours)
    )
    assert actual.losses == expected.losses
    assert torch.equal(actual.weights, expected.weights)


@pytest.mark.parametrize(
    "option",
    [
        {
            "top_entropy_quantile": 0.5
        },  # the entropies of all rows, including those without advantage
        {"delta": 1.1},
        {"off_policy_mask_threshold": 0.1},
    ],
    ids=lambda option: next(iter(option)),
)
def test_rows_left_out_do_not_disturb_an_option(
    option: dict[str, Any], model_dir: Path, tmp_path: Path
) -> None:
    case = SIMPLE | {"num_iterations": 2}
    assert_trains_as_trl_does(case, model_dir, tmp_path, reward=in_half_of_the_groups, **option)


def test_a_batch_whose_completions_are_all_masked_changes_nothing(
    model_dir: Path, tmp_path: Path
) -> None:
    """No completion has an end token, so there is nothing to check either."""
    options: Any = {"mask_truncated_completions": True, "num_steps": 2}
    plain = train(GRPOTrainer, SIMPLE, model_dir, tmp_path, **options)
    ours = train(SharedPrefixGRPOTrainer, SIMPLE, model_dir, tmp_path, **options)
    expected, actual = Outcome.of(plain), Outcome.of(ours)
    assert actual.losses == expected.losses == [0, 0]
    assert torch.equal(actual.weights, expected.weights)
    assert not ours._verified


def test_a_batch_without_any_advantage_has_an_entropy_and_no_gradient(
    model_dir: Path, tmp_path: Path
) -> None:
    plain, ours = (
        Outcome.of(train(trainer, SIMPLE, model_dir, tmp_path, reward=equal, num_steps=2))
        for trainer in (GRPOTrainer, SharedPrefixGRPOTrainer)
    )
    assert ours.entropies == pytest.approx(plain.entropies, rel=0.02)
    assert ours.losses == plain.losses == [0, 0]
    assert torch.equal(ours.weights, plain.weights)


def test_all_ranks_take_the_plain_path_until_all_can_check(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulate another rank whose batch cannot be packed in the first micro-step of two a step."""
    answers = iter([False])
    monkeypatch.setattr(
        SharedPrefixGRPOTrainer, "_on_every_rank", lambda _, here: next(answers, here)
    )
    packed: list[Any] = []
    token_log_probs = trainer_module.token_log_probs

    def counting(*args: Any, **kwargs: Any) -> Any:
        packed.append(kwargs)
        return token_log_probs(*args, **kwargs)

    monkeypatch.setattr(trainer_module, "token_log_probs", counting)
    ours = train(SharedPrefixGRPOTrainer, SIMPLE, model_dir, tmp_path)
    assert ours._verified
    assert len(packed) == 1 + (2 * NUM_STEPS - 1)
    assert "another rank" in Outcome.of(ours).plain_reasons[0]
    expected = Outcome.of(train(GRPOTrainer, SIMPLE, model_dir, tmp_path))
    assert Outcome.of(ours).losses == pytest.approx(expected.losses, abs=1e-4)


def test_the_check_compares_the_longest_completions_of_two_prompts() -> None:
    prompts = torch.tensor([[0, 1], [0, 2], [0, 1], [0, 1]])
    lengths = [1, 2, 4, 3]
    ids = torch.cat((prompts, torch.zeros(4, 4, dtype=torch.long)), 1)
    mask = torch.tensor([[1, 1] + [1] * n + [0] * (4 - n) for n in lengths])
    assert trainer_module._two_to_compare(ids, mask, 4) == [1, 2]
    assert trainer_module._two_to_compare(ids[[0, 2, 3]], mask[[0, 2, 3]], 4) == [1, 2]
    assert trainer_module._two_to_compare(ids[:1], mask[:1], 4) == [0]


@pytest.mark.parametrize("option", [{"neftune_noise_alpha": 5.0}, {"torch_compile": True}])
def test_an_option_that_sharing_would_change_takes_the_plain_path(
    option: dict[str, Any], model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "TORCH_COMPILE_DISABLE", "1"
    )  # the test is about the reason, not the compiler
    ours = train(SharedPrefixGRPOTrainer, SIMPLE, model_dir, tmp_path, num_steps=1, **option)
    assert next(iter(option)) in Outcome.of(ours).plain_reasons[0]


def test_a_group_of_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 2 generations"):
        GRPOConfig(output_dir=str(tmp_path), num_generations=1, use_cpu=True, bf16=False)
