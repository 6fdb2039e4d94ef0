"""The sync client, made from ``choreoai/aio``."""
