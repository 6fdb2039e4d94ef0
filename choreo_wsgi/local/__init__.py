"""The model that runs on this machine, in a child process.

``weights`` names the default model's file and ``fetch`` downloads it; ``process`` starts and
watches the child process, which runs ``child``.
"""
