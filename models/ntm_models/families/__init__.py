"""Families of memory models, a module each: the step, its equations with their paper, and its sizes.

Rules of this package: a family is an entry of the registry, a module, a task to show what it has learned, a recipe
and its weights; training, export, zoo and scoring know no family by its name.
"""
