"""The sync client, generated from ``choreoai/aio``."""
