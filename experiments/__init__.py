"""Experiments: `python -m experiments.NAME --help` says what each does and what it takes."""

import os

# SciPy's OpenBLAS, which factorises for JAX on CPUs, would share out matrices of a few hundred rows among threads that
# wait for each other in a loop: with other work on the machine a search on a table took twenty times as long. It reads
# this when it is loaded, so it has to be said before any other import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
