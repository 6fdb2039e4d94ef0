"""The model that runs on this machine: its file, and the process that it lives in.

``weights`` fetches the default model's file, ``process`` starts and watches the child
process, ``child`` is what runs there.
"""
