"""MT-Bench with and without ACT: two-turn answers, a judge behind an OpenAI-compatible endpoint, paired scores.

Data flows one way, through files of one folder in the layout of FastChat's `data/mt_bench`: `question.jsonl`, `model_answer/`,
`model_judgment/`. FastChat's own judge can read the questions and answers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
