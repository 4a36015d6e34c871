"""docs/how-to/add_a_strategy.md: its strategy is one file and one line, and then it is a method like the others."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from jaxnas import strategies
from jaxnas.leaderboard import method_docs, on_tables
from tests import test_strategies as contract

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "add_a_strategy.md"
NAME = "local_search"


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """The file of the page, and its line in the registry."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    path = tmp_path / f"{NAME}.py"
    path.write_text(code, encoding="utf-8")
    module_name = f"jaxnas.strategies.{NAME}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, module_name, module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(strategies.STRATEGIES, NAME, module.LocalSearch)
    return module.LocalSearch


def test_it_passes_the_contract_tests(registered):
    of_strategies = [
        getattr(contract, name)
        for name in dir(contract)
        if name.startswith("test_") and getattr(getattr(contract, name), "pytestmark", None)
    ]
    alone = [test for test in of_strategies if len(test.pytestmark) == 1 and test.pytestmark[0].args[0] == "name"]
    assert len(alone) >= 10
    for test in alone:
        test(NAME)
    good = {"space": contract.task().space, "penalties": contract.PENALTIES, "cost": contract.task().cost}
    with pytest.raises(ValueError, match="samples"):
        strategies.make(NAME, **{**good, "samples": 0})


def test_it_is_on_the_leaderboard_and_in_the_table_of_methods(registered):
    assert NAME in on_tables.methods()
    penalties = (0.05, 0.3)
    found = on_tables.run(contract.task(), (NAME, "random"), penalties, evaluations=100, seeds=8)
    assert found[NAME].mean_regret[-1] < found["random"].mean_regret[-1]
    assert method_docs.read(registered).paper.startswith("White, Nolen, Savani")
    assert method_docs.read(registered).location == "jaxnas.strategies.local_search.LocalSearch"
