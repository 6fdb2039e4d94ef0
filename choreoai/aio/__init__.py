"""The async client.  ``choreoai/sync`` is made from this folder: ``make sync``, never by hand."""
