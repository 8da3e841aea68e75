"""From a trained torch step to a model directory, with proof that it is the same function."""
