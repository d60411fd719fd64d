"""From the files that lm-eval wrote to tables and plots: did calibration help, where, and how sure are we?

Files in, files out: this package reads results and samples of finished runs and never imports torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
