"""A whole search in one call, and the family of networks that it returns: use, store and load them.

`family = jaxnas.search(space, loss=loss, train=train, valid=valid, budgets={"macs": (2e5, 5e5)}, steps=2000)` finds
them. `print(family)` shows a table; `family[0]` is a callable network with `.model`, `.params` and `.hyperparameters`.
`family.export("family")` stores them: `jaxnas.load("family")` loads them without the code of the model,
`jaxnas.load("family", make=make)` with it. `family.at({"macs": (3e5, 4e5)})` finds networks for other budgets without a
search.
"""
