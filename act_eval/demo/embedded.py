"""Where the embedded model is, and what results call it."""

from pathlib import Path

MODEL_PATH = Path(__file__).parent / "model"
DEMO_MODEL_NAME = "act-eval-demo"
