"""ntm-serve: the serving layer for models with memory."""

__version__ = "0.1.0"
