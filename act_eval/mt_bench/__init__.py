"""MT-Bench with and without ACT: two-turn answers, a judge behind an OpenAI-compatible endpoint, paired scores.

Data flows one way, through files of one folder in the layout of FastChat's `data/mt_bench`: `question.jsonl`, `model_answer/`,
`model_judgment/`. FastChat's own judge can read the questions and answers.
"""
