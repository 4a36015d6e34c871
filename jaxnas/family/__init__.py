"""The networks that one search found: finding them in one call, using, storing and loading them.

family = jaxnas.search(space, loss=loss, train=train, valid=valid, budgets={"macs": (2e5, 5e5)}, steps=2000)
print(family)                                                  # a table
outputs = family[0](inputs)                                    # also .model, .params, .hyperparameters
family.export("family")
outputs = jaxnas.load("family")[0](inputs)                     # without the code of the model
model = jaxnas.load("family", make=make)[0].model              # with it
picks = family.at({"macs": (3e5, 4e5)})                        # other budgets, without a search
"""
