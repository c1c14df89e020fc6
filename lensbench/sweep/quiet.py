"""Keeping libraries from talking over the progress bars: their INFO lines and routine warnings."""

from __future__ import annotations

import logging
import os
import warnings

TALKERS = "lightning|torch|optuna|alembic|sqlalchemy|mlflow|transformers|huggingface_hub|multiprocessing|matplotlib"


def quiet() -> None:
    """Silence INFO lines of every library and the warnings of those that warn as a matter of course."""
    logging.disable(logging.INFO)  # by level, because lightning sets its own logger's level when it is imported
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "optuna", "alembic", "mlflow", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=rf"({TALKERS})(\.|$)")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it warns whenever a process forks
