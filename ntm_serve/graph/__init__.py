"""Generated code of the part of ONNX that an import needs, made from proto/ntm_serve/graph by `make proto` alone."""
