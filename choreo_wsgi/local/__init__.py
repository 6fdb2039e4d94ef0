"""The model that runs on this machine: its file, and the process that it lives in.

``weights`` says which file the default model is and ``fetch`` brings it, ``process`` starts
and watches the child process, ``child`` is what runs there.
"""
