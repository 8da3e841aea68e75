"""From a Triton model repository to model directories: docs/from-triton.md."""
