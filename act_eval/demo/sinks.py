"""Count the attention sinks of the embedded model: `python -m act_eval.demo.sinks`."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from act_eval.attention.calibration import column_means
from act_eval.demo import MODEL_PATH, corpus

DOCUMENTS_PER_TASK = 100


@torch.no_grad()
def share_of_documents_with_sinks(alpha: float | None = None, threshold: float | None = None) -> torch.Tensor:
    """The share of test documents in which each head has a sink mid-prompt: float32 `[layers, heads]` in [0, 1].

    A sink is a key with a mean attention above `alpha / n` (or above `threshold`). The first token does not count, nor does
    the last tenth of the prompt: a late key's mean is over few queries, so that its own weight alone lifts it.
    """
    tokenizer = AutoTokenizer.from_pretrained(MODEL_PATH)
    model = AutoModelForCausalLM.from_pretrained(MODEL_PATH, dtype=torch.float32, attn_implementation="eager")
    shares = []
    for task in corpus.TASKS:
        for doc in corpus.documents(task, "test", DOCUMENTS_PER_TASK):
            prompt = tokenizer(corpus.INSTRUCTIONS[task] + corpus.prompt(task, doc), return_tensors="pt")
            means = column_means(torch.cat(model(**prompt, output_attentions=True).attentions))
            n = means.shape[-1]
            limit = alpha / n if alpha is not None else threshold
            assert limit is not None
            shares.append((means[..., 1 : n - n // 10] > limit).any(-1).float())
    return torch.stack(shares).mean(0)


def main() -> None:
    for name, value in (("alpha", 5.0), ("threshold", 0.1)):
        shares = share_of_documents_with_sinks(**{name: value})
        heads = int((shares > 0.5).sum())
        print(f"{name} {value:g}: {heads} of {shares.numel()} heads have a sink in the middle of most documents")


if __name__ == "__main__":
    main()
