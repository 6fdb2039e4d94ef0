"""Planted faults: does a test notice when the code is changed so?

``make mutants`` plants each fault of ``*.txt`` in this folder in a copy of the project, runs the
tests named beside it, and prints the faults that no test noticed.  A fault reads::

    == choreo_wsgi/app/slots.py | tests/app tests/streams
    # the slot is given back twice
    -         if self._held:
    +         if True:

The lines behind ``-`` must stand in the file exactly once, one below the other; those behind
``+`` replace them.  The tests are paths for pytest, with ``-k`` and the like if wanted.

``make mutants ARGS=--families`` counts instead what each case of the parametrised tests adds.
"""
