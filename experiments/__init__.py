"""Experiments: `python -m experiments.NAME --help` says what each does and what it takes."""
