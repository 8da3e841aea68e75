"""What can go wrong on the way from a recipe to a trained model that holds what its card promises.

ModelsFault
├── RecipeFault       whoever wrote the recipe, or named it, acts
├── TrainingFault     whoever runs the training acts: another folder, another rate
└── EvaluationFault   whoever asks for the evaluation acts: another task, another model
"""


class ModelsFault(Exception):
    """The root; the message names the thing, the expected and the actual."""


class RecipeFault(ModelsFault):
    """A recipe that is not there or cannot be used; the message names the file and the entry."""


class TrainingFault(ModelsFault):
    """A run that cannot start, or go on."""


class EvaluationFault(ModelsFault):
    """An evaluation that cannot be made, or a model directory that cannot be evaluated."""
