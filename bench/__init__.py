"""Benchmarks: every figure is printed beside the figure of a peer from the same run.

``make bench`` runs all of them; ``python -m bench --help`` lists them.  Machines differ and their
load varies: only the ratios within one run are meaningful.
"""
