"""The bare wire: stubs of our services on a channel, and messages by hand."""

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2

from ntm_serve.v1 import models_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from ntm_serve.wire import array_of, tensor_of


class Wire:
    """What a client without our SDK has."""

    def __init__(self, target):
        self.channel = grpc.insecure_channel(target, options=[("grpc.max_receive_message_length", -1)])
        self.sessions = sessions_pb2_grpc.SessionsStub(self.channel)
        self.models = models_pb2_grpc.ModelsStub(self.channel)

    def open(self, session_id="", model="running-sum", **more):
        return self.sessions.Open(sessions_pb2.OpenRequest(model=model, session_id=session_id, **more)).session

    def step(self, *args, **more):
        return self.sessions.Step(request(*args, **more))

    def outputs(self, message):
        """Every session's outputs [S, T, ...] by name; no session may fail."""
        response = self.sessions.Step(message)
        assert not response.failures
        return {tensor.name: array_of(tensor) for tensor in response.outputs}

    def get(self, session_id):
        return self.sessions.Get(sessions_pb2.GetRequest(session_id=session_id)).session

    def stream(self, requests):
        """The replies' step part, in the order they come."""
        messages = (sessions_pb2.StreamRequest(step=one) for one in requests)
        return [reply.step for reply in self.sessions.Stream(messages)]


def request(ids, values, first_steps=(), **more):
    """values: [S][T] of numbers, or an array [S, T, 1]."""
    x = np.asarray(values, np.float32)
    ids = [ids] if isinstance(ids, str) else ids
    x = x.reshape(len(ids), -1, 1) if ids else x
    return sessions_pb2.StepRequest(session_ids=ids, first_steps=first_steps, inputs=[tensor_of("x", x)], **more)


def request_of(ids, inputs, **more):
    """inputs: arrays [S, T, ...] by name."""
    tensors = [tensor_of(name, array) for name, array in inputs.items()]
    return sessions_pb2.StepRequest(session_ids=ids, inputs=tensors, **more)


def values(response):
    """y as [K][T]."""
    return array_of(response.outputs[0])[..., 0].tolist()


def reason_of(refused):
    """The machine-readable reason and facts in a call's status."""
    details = dict(refused.trailing_metadata())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert status.message == refused.details()
    assert info.domain == "ntm-serve"
    return info.reason, dict(info.metadata)
