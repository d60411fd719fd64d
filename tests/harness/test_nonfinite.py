"""Logits that are not numbers are met wherever they stand, and nothing else is."""

import math

import pytest
import torch

from act_eval.harness.nonfinite import NonFiniteLogitsError, RefuseNonFiniteLogits

pytestmark = pytest.mark.tier("unit")

PROMPTS = [(1, 2), (3, 4, 5)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("place", [0, 7, 2_000])
@pytest.mark.parametrize(("row", "prompt"), [(1, 0), (2, 1), (3, 1)])
def test_names_the_prompt_of_the_first_bad_row(dtype, place, row, prompt):
    scores = torch.randn(4, 2_001).to(dtype)  # two beams of each prompt
    scores[row, place] = math.nan
    scores[0, 3] = math.inf
    with pytest.raises(NonFiniteLogitsError) as error:
        RefuseNonFiniteLogits(PROMPTS)(torch.zeros(4, 3), scores)
    assert error.value.tokens == PROMPTS[prompt]


def test_infinite_scores_pass():
    """Processors before it forbid tokens with -inf, and force one with the rest at -inf."""
    scores = torch.full((2, 50), -math.inf)
    scores[:, 4] = math.inf
    assert RefuseNonFiniteLogits(PROMPTS)(torch.zeros(2, 3), scores) is scores
