"""Generated code of our wire contract, made from proto/ntm_serve/v1 by `make proto` alone."""
