"""The networks of a search as a table for a terminal."""

from collections.abc import Callable

from rich.console import Group
from rich.text import Text

from jaxnas.report.wording import latencies, memory_of, within
from jaxnas.results import tables
from jaxnas.results.result import SearchResult
from jaxnas.results.tables import Column


def result_table(result: SearchResult) -> Group:
    """The K networks of a search, a row each; what they are made of, too long for a column, below."""
    found = result.architectures
    columns = {
        "k": [str(each.k) for each in found],
        "penalty": [f"{each.penalty:.4g}" for each in found],
        "budget": [within(each).replace(", ", "\n") for each in found],
        "multiply-\nadds": [_optional(each.macs, _count) for each in found],
        "para-\nmeters": [_optional(each.params, _count) for each in found],
        "latency": ["\n".join(latencies(each)) or "-" for each in found],
        "loss": [_optional(each.valid_loss, "{:.4f}".format) for each in found],
        "accuracy": [_optional(each.valid_accuracy, "{:.1%}".format) for each in found],
        "prob-\nability": [_optional(each.probability, "{:.3f}".format) for each in found],
        "tested": [_optional(each.test_accuracy, "{:.1%}".format) for each in found],
    }
    # 80 columns hold what tells the networks apart, and no more: budgets take the place of penalties.
    left_out = {"penalty" if any(each.budgets for each in found) else "budget"}
    left_out |= set() if any(latencies(each) for each in found) else {"latency"}
    left_out |= set() if any(each.test_accuracy is not None for each in found) else {"tested"}
    shown = {name: cells for name, cells in columns.items() if name not in left_out}
    title = f"{result.method} on {result.space}, {result.dataset}, seed {result.seed}"
    heads = [Column(name, "name") if name == "budget" else name for name in shown]
    table = tables.Table(title, heads, list(zip(*shown.values()))).rich(compact=True)
    # Text, since brackets in a description are no markup.
    memory = [f" ({', '.join(memory_of(each))})" if memory_of(each) else "" for each in found]
    return Group(table, *(Text(f"k={each.k}: {each.description}{more}") for each, more in zip(found, memory)))


def _count(value: int) -> str:
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:.2f}{name}"
    return str(value)


def _optional(value: float | None, show: Callable[[float], str]) -> str:
    return "-" if value is None else show(value)
