"""What a search leaves behind: result.json, metrics.jsonl, pareto.png, and what it shows while it runs."""

from jaxnas.report import tensorboard
from jaxnas.report.history import History, keeps_theta, read_history, theta_field
from jaxnas.report.metrics_log import MetricsLog, read_metrics
from jaxnas.report.pareto import plot_pareto
from jaxnas.report.progress import SearchDisplay, result_table
from jaxnas.report.result import FoundArchitecture, SearchResult, read_result, versions
from jaxnas.report.summary import summarise
from jaxnas.report.tensorboard import TensorBoardLog

__all__ = [
    "FoundArchitecture",
    "History",
    "MetricsLog",
    "SearchDisplay",
    "SearchResult",
    "TensorBoardLog",
    "keeps_theta",
    "plot_pareto",
    "read_history",
    "read_metrics",
    "read_result",
    "result_table",
    "summarise",
    "tensorboard",
    "theta_field",
    "versions",
]
