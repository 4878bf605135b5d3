"""Compare merged linear layers with PEFT's own, on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor

from rlvr_trainer.shared_prefix.adapters import CannotMerge, active_adapters
from rlvr_trainer.shared_prefix.cpu import merged_linear
from rlvr_trainer.shared_prefix.cpu.merged_linear import merged_linears

from .conftest import gradient, random_model

IDS = torch.randint(3, 211, (8, 24), generator=torch.Generator().manual_seed(0))


def adapted(dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    model = random_model("llama", attention_bias=True).to(dtype)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, **options)
    return get_peft_model(model, config, autocast_adapter_dtype=False)


def forward_and_gradient(model: Any) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    logits = model(input_ids=IDS).logits
    logits.square().mean().backward()
    return logits.detach(), gradient(model)


def assert_merging_changes_nothing(model: Any, tolerance: float = 1e-5) -> None:
    expected, expected_gradient = forward_and_gradient(model)
    with merged_linears(model.get_base_model()):
        actual, actual_gradient = forward_and_gradient(model)
        assert actual.dtype == expected.dtype
        for a, b in ((actual, expected), (actual_gradient, expected_gradient)):
            assert (a - b).float().norm() < tolerance * b.float().norm()


@pytest.fixture
def num_multiplied(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return a function that gives the number of merged multiplications."""
    calls = []
    multiply = merged_linear._multiply

    def counting(*args: Any) -> Tensor:
        calls.append(args)
        return multiply(*args)

    monkeypatch.setattr(merged_linear, "_multiply", counting)
    return lambda: len(calls)


def test_lora_gives_the_same(num_multiplied: Callable[[], int]) -> None:
    assert_merging_changes_nothing(adapted(lora_alpha=6, use_rslora=True))
    assert num_multiplied() == 3 * 7  # layers of the model times linear ones in each


def test_bfloat16_weights_come_closer_to_float32_than_by_the_modules_and_with_amx_about_as_close(
    has_amx: bool, num_multiplied: Callable[[], int]
) -> None:
    model = adapted(torch.bfloat16)
    in_float32 = adapted()
    in_float32.load_state_dict(model.state_dict())
    exact = forward_and_gradient(in_float32)
    plain = forward_and_gradient(model)
    with merged_linears(model.get_base_model()):
        merged = forward_and_gradient(model)
        for x, y, z in zip(merged, plain, exact, strict=True):
            assert x.dtype == torch.bfloat16
            assert (x - z).norm() < (1.5 if has_amx else 1.0) * (y - z).norm()
            assert (y - z).norm() < 0.1 * z.norm()
        assert num_multiplied() == 3 * 7


def test_bfloat16_layers_without_adapters_are_multiplied_in_float32_too(
    num_multiplied: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    model = random_model("llama").to(torch.bfloat16)
    model.requires_grad_(False)
    expected = model(input_ids=IDS).logits
    with merged_linears(model):
        actual = model(input_ids=IDS).logits
        assert (actual - expected).norm() < 2**-5 * expected.norm()
        assert num_multiplied() == 3 * 7


def test_with_amx_plain_bfloat16_layers_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    model = random_model("llama").to(torch.bfloat16)
    with merged_linears(model):
        assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear


def test_results_may_be_written_to_and_may_be_empty() -> None:
    model = adapted()
    with merged_linears(model.get_base_model()):
        layer = model.get_base_model().model.layers[0].mlp.up_proj
        x = torch.randn(2, 5, 48)
        out = layer(x)
        expected = out + 1
        out += 1
        assert torch.equal(out, expected)
        assert layer(x[:0]).shape == (0, 5, 96)
        assert layer(x[:, :0]).shape == (2, 0, 96)


def test_with_amx_an_adapter_too_small_for_bfloat16_weights_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    model = adapted(torch.bfloat16)
    with merged_linears(model.get_base_model()):
        layer = model.get_base_model().model.layers[0].mlp.up_proj
        with torch.no_grad():
            layer.base_layer.weight.fill_(1.0)
            layer.lora_A["default"].weight.zero_()[:, 0] = 1.0
            layer.lora_B["default"].weight.fill_(2**-12)  # four of them are lost in a bfloat16 1
            layer.scaling["default"] = 1.0
            x = torch.zeros(1, 48, dtype=torch.bfloat16)
            x[0, :2] = torch.tensor([1.0, -1.0])
            assert (layer(x) == 2**-10).all()


def test_with_amx_autocast_decides_the_dtype_of_the_multiplication(
    num_multiplied: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    model = adapted()
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    x = torch.randn(5, 48)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        plain = layer(x)
        with merged_linears(model.get_base_model()):
            ours = layer(x)
    assert num_multiplied() == 1
    assert ours.dtype == torch.bfloat16
    assert (ours - exact).norm() < 1.5 * (plain - exact).norm()


def test_without_amx_autocast_decides_the_dtype_of_the_result_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    model = adapted()
    with merged_linears(model.get_base_model()):
        layer = model.get_base_model().model.layers[0].mlp.up_proj
        x = torch.randn(5, 48)
        exact = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = layer(x)
        assert rounded.dtype == torch.bfloat16
        assert torch.equal(rounded, exact.bfloat16())


def test_disabled_several_and_merged_adapters_count_as_peft_counts_them() -> None:
    model = adapted()
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])
    assert_merging_changes_nothing(model)
    with_both, _ = forward_and_gradient(model)
    with torch.no_grad():
        with model.disable_adapter():
            without = model(input_ids=IDS).logits
        assert not torch.allclose(without, with_both)
        model.merge_adapter()
        torch.testing.assert_close(model(input_ids=IDS).logits, with_both, atol=2e-4, rtol=1e-4)
        with model.disable_adapter():
            layer = model.get_base_model().model.layers[0].mlp.up_proj
            with pytest.raises(CannotMerge, match="merged and disabled"):
                active_adapters(layer)
            torch.testing.assert_close(model(input_ids=IDS).logits, without, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"lora_dropout": 0.5}], ids=["DoRA", "dropout"]
)
def test_adapters_that_are_more_than_a_product_stay_pefts(
    options: dict[str, Any], num_multiplied: Callable[[], int]
) -> None:
    assert_merging_changes_nothing(adapted(**options).train(), tolerance=1e-9)
    assert num_multiplied() == 0


@pytest.mark.parametrize("trained", ["weight", "bias"])
def test_a_base_layer_that_is_trained_keeps_its_gradient(
    trained: str, num_multiplied: Callable[[], int]
) -> None:
    model = adapted()
    for name, parameter in model.named_parameters():
        if name.endswith(f"q_proj.base_layer.{trained}"):
            parameter.requires_grad_(True)
    assert_merging_changes_nothing(model)
    assert num_multiplied() == 3 * 6


def test_an_adapter_over_another_tuners_layer_stays_pefts(
    num_multiplied: Callable[[], int],
) -> None:
    inner = get_peft_model(
        random_model("llama"),
        IA3Config(target_modules=["q_proj"], feedforward_modules=[], init_ia3_weights=False),
    )
    outer = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    assert_merging_changes_nothing(get_peft_model(inner.base_model.model, outer))
    assert num_multiplied() == 0


def test_hooks_on_the_layers_inside_are_called() -> None:
    model = adapted()
    with merged_linears(model.get_base_model()):
        layer = model.get_base_model().model.layers[0].mlp.up_proj
        called = []
        layer.lora_A["default"].register_forward_hook(lambda *_: called.append(1))
        layer(torch.randn(5, 48))
        assert called


def test_a_model_can_still_be_saved_whole(tmp_path: Path) -> None:
    model = adapted()
    with merged_linears(model.get_base_model()):
        layer = model.get_base_model().model.layers[0]
        torch.save(layer.mlp, tmp_path / "mlp.pt")
        again, x = torch.load(tmp_path / "mlp.pt", weights_only=False), torch.randn(5, 48)
        assert torch.equal(again(x), layer.mlp(x))


def test_the_head_is_not_touched() -> None:
    model = random_model("llama").to(torch.bfloat16)
    with_head = LoraConfig(r=4, target_modules=["q_proj", "lm_head"])
    with merged_linears(get_peft_model(model, with_head).get_base_model()):
        head = model.get_output_embeddings()
        assert type(head) is LoraLinear
        assert type(head.base_layer) is torch.nn.Linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_have_their_own_class_again_after_an_error_too(dtype: torch.dtype) -> None:
    model = adapted(dtype).get_base_model()
    plain = classes_of(model)

    def fail_while_merged() -> None:
        with merged_linears(model):
            with merged_linears(model):
                inner = classes_of(model)
            assert classes_of(model) == inner != plain
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_while_merged()
    assert classes_of(model) == plain


def classes_of(model: torch.nn.Module) -> list[type[torch.nn.Module]]:
    return [type(module) for module in model.modules()]


def test_a_copied_layer_multiplies_by_its_own_weights() -> None:
    model = adapted()
    with merged_linears(model.get_base_model()):
        layer = model.get_base_model().model.layers[0].mlp.up_proj
        copy, x = deepcopy(layer), torch.randn(5, 48)
        with torch.no_grad():
            before = layer(x)
            for parameter in layer.parameters():
                parameter.zero_()
            assert torch.equal(copy(x), before)
