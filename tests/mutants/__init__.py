"""Planted faults: changes to the code that the tests must notice.

``make mutants`` plants each fault of ``*.txt`` in this folder in a copy of the project, runs the
tests named beside it, and prints the faults that no test noticed.  A fault reads::

    == choreo_wsgi/app/slots.py | tests/app tests/streams
    # the slot is given back twice
    -         if self._held:
    +         if True:

The lines after ``-`` must occur in the file exactly once, consecutively; those after ``+`` replace
them.  The tests are arguments for pytest: paths, and options such as ``-k``.

``make mutants ARGS=--families`` instead counts the faults that each case of parametrised tests
notices.
"""
