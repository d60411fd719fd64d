from .plan import ComparisonSettings as ComparisonSettings
from .plan import Run as Run
from .plan import RunPlan as RunPlan
from .plan import plan_runs as plan_runs
from .recorded import FinishedRuns as FinishedRuns
from .run import run_comparison as run_comparison
from .run import run_missing as run_missing
