"""Costs, quantities and networks in words, the same in every report."""

import math
from collections.abc import Iterable, Mapping

from jaxnas.results.result import FoundArchitecture, SearchResult
from jaxnas.spaces import memory

COSTS = {"macs": "multiply-adds", "params": "parameters", "latency": "latency"}  # fields of `FoundArchitecture`
MEMORY = {memory.WEIGHTS: "memory of the weights", memory.ACTIVATIONS: "peak memory of the activations"}


def in_words(cost: str) -> str:
    """The name of a cost for people: its own where it is one of a user's space."""
    return {**COSTS, **MEMORY}.get(cost, cost)


def total(found: FoundArchitecture, cost: str) -> float | None:
    """A cost of a network by name; None where it is not known."""
    return getattr(found, cost) if cost in COSTS else {**(found.costs or {}), **(found.latencies or {})}.get(cost)


def is_time(cost: str, architectures: Iterable[FoundArchitecture]) -> bool:
    """Whether a cost of networks is their latency, on a device of this name if there are several."""
    return cost == "latency" or any(cost in (found.latencies or ()) for found in architectures)


def costs_of(architectures: Iterable[FoundArchitecture]) -> list[str]:
    """The costs that are known of all of some networks."""
    networks = list(architectures)
    others = sorted(
        {cost for found in networks for cost in (*(found.costs or ()), *(found.latencies or ()))} - COSTS.keys()
    )
    return [cost for cost in (*COSTS, *others) if all(total(found, cost) is not None for found in networks)]


def searched_cost(result: SearchResult) -> str:
    """The cost that a search penalised or gave budgets of, if it is known of all networks; else the first that is."""
    settings = result.config.get("method")
    settings = settings if isinstance(settings, Mapping) else result.config  # earlier versions had no groups
    known = costs_of(result.architectures)
    return next((cost for cost in (settings.get("cost"), "macs", *known) if cost in known), "macs")


def measures_loss(architectures: Iterable[FoundArchitecture]) -> bool:
    """Whether networks are to be compared by loss: no accuracy is known of any, and a loss is."""
    architectures = list(architectures)
    accurate = any(found.valid_accuracy is not None for found in architectures)
    return not accurate and any(found.valid_loss is not None for found in architectures)


def label(found: FoundArchitecture) -> str:
    """What tells one network from the others: its budget or its penalty.

    >>> label(FoundArchitecture(0, 0.1, (), "", 1, 1, None, None, None))
    'penalty 0.1'
    >>> label(FoundArchitecture(0, 0.1, (), "", 1, 1, None, None, None, {"macs": 3e7, "latency": 0.004}))
    'macs ≤ 30M, latency ≤ 4 ms'
    """
    return f"penalty {found.penalty:.3g}" if not found.budgets else within(found)


def within(found: FoundArchitecture) -> str:
    """The budgets of a network, such as "macs ≤ 30M"."""
    budgets = found.budgets or {}
    return ", ".join(
        f"{name} ≤ {quantity(name, value, time=is_time(name, [found]))}" for name, value in budgets.items()
    )


def latencies(found: FoundArchitecture) -> list[str]:
    """The predicted latency of a network, or those on several devices with their names; empty where none is known.

    >>> network = FoundArchitecture(0, 0.1, (), "", 1, 1, None, None, None, latencies={"phone": 0.005, "server": 2e-4})
    >>> latencies(network)
    ['phone 5 ms', 'server 200 µs']
    """
    alone = [] if found.latency is None else [quantity("latency", found.latency)]
    return alone + [f"{device} {seconds(value)}" for device, value in (found.latencies or {}).items()]


def memory_of(found: FoundArchitecture) -> list[str]:
    """The memory of a network, as far as the search knows it.

    >>> memory_of(FoundArchitecture(0, 0.1, (), "", 1, 1, None, None, None, costs={"weight_memory": 1.2e6}))
    ['1.2 MB of weights']
    """
    known = found.costs or {}
    return [f"{quantity(name, known[name])} of {name.split('_')[0]}s" for name in MEMORY if name in known]


def quantity(cost: str, value: float, digits: int = 3, *, time: bool = False) -> str:
    """A cost for people, with a unit where it is memory, or a time: of the name latency, or if the caller knows it.

    >>> quantity("macs", 91_849_216), quantity("latency", 0.00314), quantity("phone", 2, time=True)
    ('91.8M', '3.14 ms', '2 s')
    >>> quantity("weight_memory", 1_235_050), quantity("activation_memory", 512)
    ('1.24 MB', '512 B')
    """
    if time or cost == "latency":
        return seconds(value, digits)
    return _in_thousands(value, digits, " ", "B") if cost in MEMORY else count(value, digits)


def seconds(value: float, digits: int = 3) -> str:
    """A short time for people.

    >>> seconds(2), seconds(0.00314), seconds(4.2e-5)
    ('2 s', '3.14 ms', '42 µs')
    """
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if abs(value) >= 0.9995 * unit:
            return f"{value / unit:.{digits}g} {name}"
    return f"{value / 1e-6:.{digits}g} µs"


def count(value: float, digits: int = 3) -> str:
    """A large number for people.

    >>> count(91_849_216), count(1_235_050), count(512), count(0)
    ('91.8M', '1.24M', '512', '0')
    """
    return _in_thousands(value, digits)


def _in_thousands(value: float, digits: int, gap: str = "", unit: str = "") -> str:
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.{digits}g}{gap}{prefix}{unit}"
    return f"{value:.{digits}g}{gap}{unit}"


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(59.6), duration(75), duration(4000)
    ('1 min 00 s', '1 min 15 s', '1 h 06 min')
    """
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def short_name(choice: str) -> str:
    """The name of a choice where there is little room.

    >>> short_name("mbconv_k5_e6"), short_name("nor_conv_3x3"), short_name("skip_connect")
    ('5×5 e6', '3×3', 'skip')
    """
    parts = choice.split("_")
    if parts[0] == "mbconv" and len(parts) == 3:
        return f"{parts[1][1:]}×{parts[1][1:]} {parts[2]}"
    names = {"skip_connect": "skip", "nor_conv_1x1": "1×1", "nor_conv_3x3": "3×3", "avg_pool_3x3": "pool 3×3"}
    return names.get(choice, choice)
