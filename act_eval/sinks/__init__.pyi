from . import plots as plots
from . import tables as tables
from .collect import collect as collect
from .run import run_sinks as run_sinks
from .settings import SinksSettings as SinksSettings
from .statistics import SinkStatistics as SinkStatistics
