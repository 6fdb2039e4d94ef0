"""Benchmarks: every figure stands beside a peer's of the same run.

``make bench`` runs all of them; ``python -m bench --help`` names them.  Machines differ and
are busy at times: only the ratios within one run mean anything.
"""
