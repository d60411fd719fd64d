from .arguments import ACTArguments as ACTArguments
from .lm import ACTLM as ACTLM
from .nonfinite import NonFiniteLogitsError as NonFiniteLogitsError
from .scoring import Context as Context
from .scoring import Scorer as Scorer
from .tasks import TaskError as TaskError
from .tasks import project_tasks as project_tasks
from .tasks import tasks_path as tasks_path
