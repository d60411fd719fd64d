from . import corpus as corpus
from .embedded import DEMO_MODEL_NAME as DEMO_MODEL_NAME
from .embedded import MODEL_PATH as MODEL_PATH
