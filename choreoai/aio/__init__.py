"""The async client.  ``make sync`` generates ``choreoai/sync`` from it; never edit that by hand."""
