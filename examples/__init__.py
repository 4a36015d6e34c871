"""Whole searches in one file each: a model as it is, its choices, data, loss and budgets."""
