"""The Open Inference Protocol by hand: messages on a channel, without anybody's client."""

import grpc
import numpy as np

from ntm_serve.inference import service_pb2

SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]


class InferenceWire:
    """Every method of the service by its name, as functions of keyword arguments."""

    def __init__(self, target):
        self.channel = grpc.insecure_channel(target, options=[("grpc.max_receive_message_length", -1)])

    def call(self, name, /, **fields):
        method = SERVICE.methods_by_name[name]
        kinds = [getattr(service_pb2, one.name) for one in (method.input_type, method.output_type)]
        stub = self.channel.unary_unary(f"/{SERVICE.full_name}/{name}", kinds[0].SerializeToString, kinds[1].FromString)
        return stub(kinds[0](**fields), timeout=30)

    def infer(self, sequence, values, **more):
        """y of a sequence's steps, of the shape that comes."""
        return y_of(self.infer_response(infer_request(sequence, values, **more)))

    def infer_response(self, request, **options):
        stub = self.channel.unary_unary(
            f"/{SERVICE.full_name}/ModelInfer",
            service_pb2.ModelInferRequest.SerializeToString,
            service_pb2.ModelInferResponse.FromString,
        )
        return stub(request, **{"timeout": 30, **options})

    def stream(self, requests, metadata=()):
        """The call: iterate over it for the replies."""
        return self.channel.stream_stream(
            f"/{SERVICE.full_name}/ModelStreamInfer",
            service_pb2.ModelInferRequest.SerializeToString,
            service_pb2.ModelStreamInferResponse.FromString,
        )(iter(requests), metadata=metadata, timeout=30)


def infer_request(
    sequence,
    values,
    *,
    start=False,
    end=False,
    model="running-sum",
    shape=None,
    request_id="",
    model_version="",
    **more,
):
    """values: of x, [T, 1] unless a shape is given. more: parameters beside those of sequences."""
    x = np.asarray(values, np.float32)
    x = x.reshape(-1, 1) if shape is None else x.reshape(shape)
    request = service_pb2.ModelInferRequest(model_name=model, model_version=model_version, id=request_id)
    request.raw_input_contents.append(x.tobytes())
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    given = {"sequence_start": start, "sequence_end": end, **more}
    if sequence is not None:
        given["sequence_id"] = sequence
    for name, value in given.items():
        set_parameter(request.parameters[name], value)
    return request


def set_parameter(parameter, value):
    """As clients choose the field: by the type of the value."""
    field = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
    setattr(parameter, field, value)


def y_of(response):
    """y, of the shape that came."""
    (place,) = [place for place, one in enumerate(response.outputs) if one.name == "y"]
    return np.frombuffer(response.raw_output_contents[place], np.float32).reshape(list(response.outputs[place].shape))


def output_of(response, name):
    """The bytes of an output."""
    return response.raw_output_contents[[one.name for one in response.outputs].index(name)]
