from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from rlvr_trainer.shared_prefix import token_scores as module
from rlvr_trainer.shared_prefix.token_scores import head_scores, token_scores


@pytest.fixture(autouse=True)
def _several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use several chunks, the last one smaller."""
    monkeypatch.setitem(module._MULTIPLIED_ELEMENTS, "cpu", 2500)
    monkeypatch.setitem(module._SOFTMAXED_ELEMENTS, "cpu", 1500)


def float64_scores(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    log_p = (logits / temperature).log_softmax(-1)
    entropies = -(log_p.exp() * log_p).sum(-1)
    return torch.stack((log_p.gather(-1, targets[:, None])[:, 0], entropies), 1)


def assert_same_scores_and_gradient(
    leaf: Tensor,
    of: Callable[[Tensor], Tensor],
    expected_of: Callable[[Tensor], Tensor],
    toward: Tensor,
) -> None:
    exact = leaf.double().requires_grad_()
    expected = expected_of(exact)
    (expected * toward).sum().backward()
    leaf = leaf.clone().requires_grad_()
    scores = of(leaf)
    (scores * toward).sum().backward()
    torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=1e-6)
    assert exact.grad is not None
    assert leaf.grad is not None
    assert (leaf.grad - exact.grad).norm() < 1e-5 * exact.grad.norm()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("spread", [1.0, 12.0], ids=["flat", "peaked"])
def test_scores_of_logits_are_those_of_float64(temperature: float, spread: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(7, 500) * spread + 20
    targets = torch.randint(500, (7,))
    assert_same_scores_and_gradient(
        logits,
        lambda leaf: token_scores(leaf * 1, targets, temperature),
        partial(float64_scores, targets=targets, temperature=temperature),
        torch.randn(7, 2),
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_probabilities_of_a_large_vocabulary_add_up_to_one(seed: int) -> None:
    """An error in the sum is one of all probabilities, and so of a gradient: 3e-6 to 8e-6.

    That is how far a CPU's log_softmax is from it.
    """
    torch.manual_seed(seed)
    _, p = module._softmax(torch.randn(8, 49_152) * 3, 0.7)
    assert (p.double().sum(-1) - 1).abs().max() < 5e-7


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("spread", [0.1, 1.0], ids=["flat", "peaked"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_scores_of_states_are_those_of_float64(
    temperature: float, spread: float, with_bias: bool, entropy_gradient: bool
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(500, 32) * spread
    bias = torch.randn(500) if with_bias else None
    targets = torch.randint(500, (7,))
    toward = torch.randn(7, 2)
    toward[:, 1] *= entropy_gradient

    def exact(states: Tensor) -> Tensor:
        logits = torch.nn.functional.linear(
            states, weight.double(), None if bias is None else bias.double()
        )
        return float64_scores(logits, targets, temperature)

    assert_same_scores_and_gradient(
        torch.randn(7, 32),
        partial(
            head_scores,
            weight=weight,
            bias=bias,
            targets=targets,
            temperature=temperature,
            entropy_gradient=entropy_gradient,
        ),
        exact,
        toward,
    )


def test_bfloat16_states_get_a_bfloat16_gradient_as_exact_as_its_product(
    has_amx: bool,
) -> None:
    torch.manual_seed(0)
    states, weight = torch.randn(7, 32).bfloat16(), torch.randn(500, 32).bfloat16()
    targets = torch.randint(500, (7,))
    gradients = []
    for dtype in (torch.bfloat16, torch.float32):
        leaf = states.to(dtype, copy=True).requires_grad_()
        head_scores(leaf, weight.to(dtype), None, targets).sum().backward()
        assert leaf.grad is not None
        assert leaf.grad.dtype == dtype
        gradients.append(leaf.grad.float())
    tolerance = 2**-6 if has_amx else 2**-8
    assert (gradients[0] - gradients[1]).norm() < tolerance * gradients[1].norm()


@pytest.mark.parametrize("with_logits", [False, True])
def test_autocast_rounds_no_score(with_logits: bool) -> None:
    torch.manual_seed(0)
    states, weight = torch.randn(7, 32), torch.randn(500, 32) * 0.1
    targets = torch.randint(500, (7,))
    logits = states @ weight.t()
    with torch.autocast("cpu", torch.bfloat16):
        if with_logits:
            scores = token_scores(logits.clone(), targets)
        else:
            scores = head_scores(states.bfloat16().float(), weight, None, targets)
    expected = float64_scores(logits.double(), targets, 1.0)
    # the states and the weight may be rounded, the entropies not: bfloat16 has steps of 0.03 there
    torch.testing.assert_close(
        scores[:, 1].double(), expected[:, 1], atol=1e-5 if with_logits else 4e-3, rtol=0
    )


def test_a_second_backward_through_logits_is_an_error() -> None:
    logits = torch.randn(2, 5, requires_grad=True)
    scores = token_scores(logits * 1, torch.tensor([1, 2])).sum()
    scores.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="run the forward again"):
        scores.backward()
