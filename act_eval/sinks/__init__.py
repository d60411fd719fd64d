"""Attention sinks made visible: statistics over the documents of any tasks, and the paper's figures.

`collect` and `plots` need a model and token ids alone; `run` draws documents from lm-eval's tasks and writes everything.
"""

from act_eval.sinks.collect import collect
from act_eval.sinks.statistics import SinkStatistics

__all__ = ["SinkStatistics", "collect"]
