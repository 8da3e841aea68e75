"""Generated code of the Open Inference Protocol, made from proto/ntm_serve/inference by `make proto` alone."""
