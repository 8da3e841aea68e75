"""What a model is to clients of the Open Inference Protocol: its metadata, its configuration, what was counted. Pure.

Rules of this file: state is never among the inputs, or clients would feed it; every tensor has a batch axis first.
"""

from collections.abc import Sequence

from ntm_serve.frontends.tensors import WIRE_OF_DTYPE, Port
from ntm_serve.inference import model_config_pb2, service_pb2
from ntm_serve.observer import Counted, ModelTotals
from ntm_serve.spec import TensorSpec
from ntm_serve.step_model import ModelKey, StepModel

PLATFORM = "onnxruntime_onnx"
BACKEND = "ntm_serve"

INT32_MAX = 2**31 - 1

# How long a sequence may idle where there is no end to it: what clients can read as a signed number.
NEVER_US = 2**63 - 1


def metadata_of(model: StepModel, versions: Sequence[str]) -> service_pb2.ModelMetadataResponse:
    """Inputs and outputs, with an axis of any size first."""

    def tensors(specs: Sequence[TensorSpec]) -> list[service_pb2.ModelMetadataResponse.TensorMetadata]:
        return [
            service_pb2.ModelMetadataResponse.TensorMetadata(
                name=port.name, datatype=port.datatype, shape=(-1, *port.shape)
            )
            for port in map(Port, specs)
        ]

    return service_pb2.ModelMetadataResponse(
        name=model.card.name,
        versions=versions,
        platform=PLATFORM,
        inputs=tensors(model.spec.inputs),
        outputs=tensors(model.spec.outputs),
    )


def config_of(
    model: StepModel, versions: Sequence[str], *, idle_life_s: float | None, sessions_max: int
) -> model_config_pb2.ModelConfig:
    """How a model is served. idle_life_s: of a sequence. sessions_max: sequences at once."""
    card, spec, independence = model.card, model.spec, model.batch_independence
    config = model_config_pb2.ModelConfig(
        name=card.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=model.batch_max,
        instance_group=[
            model_config_pb2.ModelInstanceGroup(
                name=card.name, count=1, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU
            )
        ],
        model_transaction_policy=model_config_pb2.ModelTransactionPolicy(decoupled=False),
    )
    numbers = [int(version) for version in versions if version.isdigit()]
    config.version_policy.specific.versions.extend(numbers)
    for one in spec.inputs:
        config.input.add(name=one.name, data_type=_type_of(one), dims=one.shape or (1,), reshape=_reshape_of(one))
    for one in spec.outputs:
        config.output.add(name=one.name, data_type=_type_of(one), dims=one.shape or (1,), reshape=_reshape_of(one))
    if spec.state:
        batching = config.sequence_batching
        batching.max_sequence_idle_microseconds = NEVER_US if idle_life_s is None else round(idle_life_s * 1e6)
        batching.oldest.max_candidate_sequences = min(sessions_max, INT32_MAX)
        for state in spec.state:
            batching.state.add(
                input_name=state.name, output_name=state.name, data_type=_type_of(state), dims=state.shape or (1,)
            )
    facts = {
        "family": card.family,
        "task": card.task,
        "digest": card.digest,
        "engine": card.engine,
        "batch_padding": str(independence.padding),
        "batch_independence": str(independence.holds).lower(),
    }
    for key, value in facts.items():
        if value:
            config.parameters[key].string_value = value
    return config


def statistics_of(key: ModelKey, totals: ModelTotals) -> service_pb2.ModelStatistics:
    """What was counted of a model. What is done of a request before and after its runs is a part of them."""
    answered, waited = totals.answered, totals.waited
    computed, none = Counted(answered.count, answered.seconds - waited.seconds), Counted(answered.count)
    statistics = service_pb2.ModelStatistics(
        name=key.name,
        version=key.version,
        last_inference=round(totals.last_run_at_s * 1000),
        inference_count=totals.steps,
        execution_count=sum(runs.count for runs in totals.runs.values()),
        inference_stats=service_pb2.InferStatistics(
            success=_duration(answered),
            fail=_duration(totals.failed),
            queue=_duration(waited),
            compute_input=_duration(none),
            compute_infer=_duration(computed),
            compute_output=_duration(none),
            cache_hit=_duration(Counted()),
            cache_miss=_duration(Counted()),
        ),
    )
    for rows, runs in totals.runs.items():
        statistics.batch_stats.add(
            batch_size=rows,
            compute_input=_duration(Counted(runs.count)),
            compute_infer=_duration(runs),
            compute_output=_duration(Counted(runs.count)),
        )
    return statistics


def _duration(counted: Counted) -> service_pb2.StatisticDuration:
    return service_pb2.StatisticDuration(count=counted.count, ns=round(counted.seconds * 1e9))


def _reshape_of(spec: TensorSpec) -> model_config_pb2.ModelTensorReshape | None:
    """A scalar goes as `[1]`."""
    return None if spec.shape else model_config_pb2.ModelTensorReshape()


def _type_of(spec: TensorSpec) -> int:
    return model_config_pb2.DataType.Value(f"TYPE_{WIRE_OF_DTYPE[spec.dtype]}")
