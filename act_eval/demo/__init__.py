"""The embedded demo model: a small language model that ships with the package, so that everything runs offline."""

from pathlib import Path

MODEL_PATH = Path(__file__).parent / "model"
DEMO_MODEL_NAME = "act-eval-demo"
