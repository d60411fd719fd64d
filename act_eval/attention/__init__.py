"""What happens inside one attention call: sinks are found, and the outputs of calibrated heads replaced.

`calibration` is the definition on attention maps, `act` puts it into a model, and `layer` follows one call. What users need is
in `act_eval` itself: `ACT`, `calibrate`, `column_means`, `find_sinks`. The modules here are internal.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
