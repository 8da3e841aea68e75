"""The differentiable neural computer (Graves et al. 2016)."""

from ntm_models.dnc.step import DNC, DNCOptions

__all__ = ["DNC", "DNCOptions"]
