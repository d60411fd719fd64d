from .base import Method as Method
from .base import SelectiveMethod as SelectiveMethod
from .base import check_range as check_range
from .base import tiny as tiny
from .per_head_group import PerHeadGroup as PerHeadGroup
from .registry import available_methods as available_methods
from .registry import make_method as make_method

def __getattr__(name: str) -> type[Method]: ...
