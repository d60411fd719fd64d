"""Inputs for the small models, and what watches them run."""

from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from act_eval.attention.act import ACT
from act_eval.profiles import HeadProfile

GOLDEN = Path(__file__).parents[1] / "golden"


def random_ids(length: int, seed: int, rows: int = 1) -> torch.Tensor:
    """Token ids for the golden models, with tokens that attract attention among them: int64 `[rows, length]`."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 128, (rows, length), generator=generator)
    attractive = torch.tensor([7, 19, 42, 77, 100])
    chosen = attractive[torch.randint(0, 5, (rows, length), generator=generator)]
    ids = torch.where(torch.rand(rows, length, generator=generator) < 0.1, chosen, ids)
    ids[:, 0] = 1
    return ids


class LargestTensor(TorchDispatchMode):
    """Remembers how many elements the largest new tensor had."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor._base is None:
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


ALL = {layer: tuple(range(8)) for layer in range(6)}


SOME = {1: (0, 3), 2: (2,), 4: (1, 5, 6, 7)}


def act_of(settings, heads=None, **kwargs):
    return ACT(
        HeadProfile(ALL if heads is None else heads),
        method=settings.method,
        threshold=settings.threshold if settings.alpha is None else None,
        alpha=settings.alpha,
        keep=settings.keep,
        sink_share=settings.sink_share,
        min_queries=settings.min_queries,
        **{"decode": settings.decode, **kwargs},
    )


@torch.no_grad()
def logits_of(model, ids, act=None, **kwargs):
    if act is None:
        return model(ids, **kwargs).logits
    with act(model):
        return model(ids, **kwargs).logits


def prefill_and_decode(model, act, lengths=(70, 41)):
    """Logits of a left-padded batch's prefill and of three tokens on its cache, real positions only."""
    ids, mask = random_ids(max(lengths), seed=19, rows=len(lengths)), torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, -length:] = 1
    with torch.no_grad(), act(model):
        output = model(ids, attention_mask=mask, use_cache=True)
        mask = torch.cat([mask, torch.ones(len(lengths), 3, dtype=torch.long)], dim=-1)
        new = model(random_ids(3, seed=18, rows=len(lengths)), attention_mask=mask, past_key_values=output.past_key_values)
    return torch.cat([torch.cat([output.logits[row, -length:], new.logits[row]]) for row, length in enumerate(lengths)])


def log_prob_token_by_token(model, context, continuation):
    """The log-probability of token ids after others, each met in a step of its own on the cache."""
    output, total = model(torch.tensor([context]), use_cache=True), 0.0
    for token in continuation:
        total += float(output.logits[0, -1].log_softmax(-1)[token])
        output = model(torch.tensor([[token]]), past_key_values=output.past_key_values, use_cache=True)
    return total


def golden_act(cases, setting_id, decode="prefill"):
    """ACT as a setting of the golden cases says (tests/golden/README.md)."""
    setting = next(setting for setting in cases["settings"] if setting["id"] == setting_id)
    if setting["profile"] is None:
        return ACT("none")
    heads = {int(layer): tuple(heads) for layer, heads in cases["profiles"][setting["profile"]].items()}
    return ACT(HeadProfile(heads), beta=setting["beta"], threshold=setting["threshold"], decode=decode)
