"""What a search leaves behind: result.json, metrics.jsonl, pareto.png, and what it shows while it runs."""

from jaxnas.report import tensorboard
from jaxnas.report.networks_table import result_table
from jaxnas.report.pareto import plot_pareto
from jaxnas.report.progress import SearchDisplay, TrainingDisplay
from jaxnas.report.tensorboard import TensorBoardListener, TensorBoardLog

__all__ = [
    "SearchDisplay",
    "TensorBoardListener",
    "TensorBoardLog",
    "TrainingDisplay",
    "plot_pareto",
    "result_table",
    "tensorboard",
]
