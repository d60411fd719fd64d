"""Where the project's lm-eval tasks are."""

from pathlib import Path


def tasks_path() -> Path:
    """The folder to give lm-eval as `include_path`: `tasks/` of a checkout, or its copy inside the installed package."""
    package = Path(__file__).parent
    checkout = package.parent / "tasks"
    return checkout if (package.parent / "pyproject.toml").is_file() and checkout.is_dir() else package / "task_configs"
