"""Problems with known answers to search on: complete tables, recorded supernets, synthetic tables."""

from jaxnas.tasks.relaxed_table import RelaxedTable
from jaxnas.tasks.synthetic import synthetic_table
from jaxnas.tasks.tables import Table, additive_cost, read_table
from jaxnas.tasks.tabular import TableCost, TabularTask, search, search_seeds

__all__ = [
    "RelaxedTable",
    "Table",
    "TableCost",
    "TabularTask",
    "additive_cost",
    "read_table",
    "search",
    "search_seeds",
    "synthetic_table",
]
