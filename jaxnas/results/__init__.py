"""What a search leaves behind: config.json, result.json, metrics.jsonl."""

from jaxnas.results.history import History, keeps_theta, read_history, theta_field
from jaxnas.results.metrics_log import MetricsLog, read_metrics
from jaxnas.results.result import FoundArchitecture, SearchResult, read_result, versions

__all__ = [
    "FoundArchitecture",
    "History",
    "MetricsLog",
    "SearchResult",
    "keeps_theta",
    "read_history",
    "read_metrics",
    "read_result",
    "theta_field",
    "versions",
]
