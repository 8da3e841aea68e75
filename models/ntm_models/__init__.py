"""Trained memory models: step modules in torch, tasks in numpy alone, training and evaluation."""
