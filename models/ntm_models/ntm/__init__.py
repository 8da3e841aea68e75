"""The Neural Turing Machine (Graves, Wayne, Danihelka 2014)."""

from ntm_models.ntm.form import Activations, Form
from ntm_models.ntm.step import NTM, NTMOptions

__all__ = ["NTM", "Activations", "Form", "NTMOptions"]
