"""Everything that commands import, and nothing that takes long for each of them: what processes that tests start begin with.

Packages are lazy, so that modules are named that import what they need at once. `act_eval.cli` asks which of several
processes it is in when it is imported.
"""

import atexit
import gc
import importlib
from functools import cache

from torch.utils import collect_env

for module in (
    "act_eval.compare.run",
    "act_eval.mt_bench.answers",
    "act_eval.report.write",
    "act_eval.search.run",
    "act_eval.sinks.run",
    "act_eval.sweep.run",
    "datasets",
    "lm_eval.evaluator",
    "lm_eval.models.huggingface",
    "lm_eval.tasks",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "transformers.models.llama.modeling_llama",
    "typer",
):
    importlib.import_module(module)

collect_env.get_pretty_env_info = cache(collect_env.get_pretty_env_info)
collect_env.get_pretty_env_info()
gc.collect()
gc.freeze()
atexit.register(gc.unfreeze)  # what is frozen then is reported as leaked
