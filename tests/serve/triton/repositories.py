"""Triton repositories for tests: folders, configs, graphs."""

SUM_CONFIG = """
name: "sum"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] } ]
sequence_batching {
  state [
    {
      input_name: "total_in"
      output_name: "total_out"
      data_type: TYPE_FP32
      dims: [ 3 ]
      initial_state: { name: "nothing" data_type: TYPE_FP32 dims: [ 3 ] zero_data: true }
    }
  ]
}
"""

PERCEPTRON_CONFIG = """
max_batch_size: 16
input { name: "x" data_type: TYPE_FP32 dims: 8 }
output { name: "y" data_type: TYPE_FP32 dims: 4 }
dynamic_batching { preferred_batch_size: [ 4, 8 ] }
"""


def put(repository, name, config, model, *, version="1", initial=None):
    """A model of a Triton repository; returns its folder. config: None writes none. initial: files of states."""
    folder = repository / name
    (folder / version).mkdir(parents=True)
    (folder / version / "model.onnx").write_bytes(model)
    if config is not None:
        (folder / "config.pbtxt").write_text(config)
    for file, content in (initial or {}).items():
        (folder / "initial_state").mkdir(exist_ok=True)
        (folder / "initial_state" / file).write_bytes(content)
    return folder
