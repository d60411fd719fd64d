from .grid import Axis as Axis
from .plots import plot_axis as plot_axis
from .results import SweepResults as SweepResults
from .run import run_sweep as run_sweep
from .tables import axis_table as axis_table
from .tables import main_metric as main_metric
from .tables import print_tables as print_tables
from .write import write_sweep as write_sweep
