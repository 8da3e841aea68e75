"""What becomes of each field of a config: understood, ignored with a reason, or refused with one. Pure.

Rules of this file: what changes what a model computes is understood or refused; what says how fast or on what it is
to be computed is the server's own to decide, and said to be ignored.
"""

from collections.abc import Iterator

from ntm_serve.errors import ModelRejected
from ntm_serve.inference.model_config_pb2 import ModelInput, ModelOutput
from ntm_serve.triton.config import Config

BACKENDS = ("", "onnxruntime")
PLATFORMS = ("", "onnxruntime_onnx")

# Of a field, or of all that are inside it.
IGNORED = {
    "instance_group": "runs share the threads of the server, --compute-threads",
    "dynamic_batching": "whoever waits rides together, and nobody waits for a batch to fill",
    "optimization": "the execution provider is the server's, --execution-provider",
    "parameters": "ONNX Runtime is set up by the server",
    "model_warmup": "every model is run and measured when it is loaded",
    "response_cache": "a session's latest replies are kept for retries, others are not",
    "model_metrics": "the server's metrics have buckets of their own",
    "metric_tags": "labels are model and version",
    "runtime": "there is one",
    "cc_model_filenames": "the default file is taken",
    "model_transaction_policy": "a request has one reply",
    "input.format": "it says what the axes mean, and changes none",
    "output.label_filename": "outputs are numbers",
    "sequence_batching.max_sequence_idle_microseconds": "an idle session lives as long as --idle-life-s says",
    "sequence_batching.direct": "a session has no place of its own in a batch",
    "sequence_batching.oldest": "whoever waited longest rides first, and as many as there are",
    "sequence_batching.state.use_same_buffer_for_input_output": "a state is a value, and never written to",
    "sequence_batching.state.use_growable_memory": "a state has one size",
    "sequence_batching.state.initial_state.name": "a state has the name of its input",
}

REFUSED = {
    "ensemble_scheduling": "an ensemble is no graph of its own: import its models, and call one after another",
    "batch_input": "no tensors are made of what a batch is",
    "batch_output": "no tensors are made of what a batch is",
    "model_operations": "no operators are loaded but ONNX Runtime's own",
    "model_repository_agents": "files are read as they are",
}


def ignored(config: Config) -> list[str]:
    """The fields without a meaning here, each with what is instead."""
    named = {
        place: reason for field in config.fields if (place := _within(field, IGNORED)) for reason in [IGNORED[place]]
    }
    if config.model.max_batch_size > 0:
        named["max_batch_size"] = "the batch with the most steps a second is found at load, or --batch-max says it"
    return [f"{place}: {reason}" for place, reason in named.items()]


def refusals(config: Config) -> Iterator[str]:
    """The fields that ask for what is not to be had here, each with the reason."""
    model = config.model
    if model.backend not in BACKENDS or model.platform not in PLATFORMS:
        said = f"backend {model.backend!r}" if model.backend else f"platform {model.platform!r}"
        yield f"{said}: expected an ONNX model, of backend 'onnxruntime'"
    named = dict.fromkeys(place for field in config.fields if (place := _within(field, REFUSED)))
    yield from (f"{place}: {REFUSED[place]}" for place in named)
    for field in config.unknown:
        if _within(field, IGNORED) is None and _within(field, REFUSED) is None:
            yield f"{field}: is not known here, and may change what is computed"
    if model.model_transaction_policy.decoupled:
        yield "model_transaction_policy: decoupled: a request has one reply"
    if model.sequence_batching.iterative_sequence:
        yield "sequence_batching.iterative_sequence: a request is one step, or as many as it brings"
    tensors: list[ModelInput | ModelOutput] = [*model.input, *model.output]
    for tensor in tensors:
        if tensor.HasField("reshape") and not is_scalar(tensor):
            yield f"tensor {tensor.name}: reshape: a tensor has one shape, but for a number alone, that travels as [1]"
    for one in model.input:
        for said, asked in (("is_shape_tensor", one.is_shape_tensor), ("allow_ragged_batch", one.allow_ragged_batch)):
            if asked:
                yield f"input {one.name}: {said}: every row of a batch has the same shape"
        if one.optional:
            yield f"input {one.name}: optional: a step brings every input"


def expect_servable(config: Config, name: object) -> None:
    """Raises ModelRejected with all that is refused of a config by itself; `name` is for messages."""
    if faults := list(refusals(config)):
        raise ModelRejected(f"{name}: {'; '.join(faults)}")


def is_scalar(tensor: ModelInput | ModelOutput) -> bool:
    """Whether a number alone is meant, that clients send and read as [1]; and that is how it travels here too."""
    return tensor.HasField("reshape") and list(tensor.dims) == [1] and not tensor.reshape.shape


def _within(field: str, places: dict[str, str]) -> str | None:
    """The place that the field is, or is inside of."""
    return next((place for place in places if field == place or field.startswith(f"{place}.")), None)
