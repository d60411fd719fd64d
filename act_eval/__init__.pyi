from . import methods as methods
from .attention.act import ACT as ACT
from .attention.calibration import calibrate as calibrate
from .attention.calibration import column_means as column_means
from .attention.calibration import find_sinks as find_sinks
from .attention.spans import span_tokens as span_tokens
from .errors import InputError as InputError
from .harness.lm import ACTLM as ACTLM
from .methods.base import Method as Method
from .methods.registry import make_method as make_method
from .profiles import HeadGroup as HeadGroup
from .profiles import HeadProfile as HeadProfile

__version__: str
