"""What happens inside one attention call: sinks are found, and the outputs of calibrated heads replaced."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
