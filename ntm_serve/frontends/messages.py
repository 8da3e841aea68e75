"""Between our wire messages and the service's types. Pure."""

from collections.abc import Sequence

from ntm_serve.message import StepRequest
from ntm_serve.service import ModelView, SessionView
from ntm_serve.submission import Submission
from ntm_serve.v1 import models_pb2, sessions_pb2, tensor_pb2
from ntm_serve.wire import arrays_of, tensor_of, wire_durability, wire_error, wire_spec

NEXT_STEP = -1


def step_request(message: sessions_pb2.StepRequest) -> StepRequest:
    """Raises InvalidInput."""
    # A slice is a list, and made faster than by list().
    ids: list[str] = message.session_ids[:]
    numbers: list[int] = message.first_steps[:]
    firsts = [None if number == NEXT_STEP else number for number in numbers] if numbers else [None] * len(ids)
    return StepRequest(ids, firsts, arrays_of(message.inputs), message.output_names)


def step_response(submission: Submission, places: Sequence[int]) -> sessions_pb2.StepResponse:
    """One message for the places that are answered together, in the order given."""
    ids, errors = submission.session_ids, submission.errors
    good = [place for place in places if place not in errors]
    return sessions_pb2.StepResponse(
        tag=submission.tag,
        session_ids=[ids[place] for place in good],
        next_steps=[submission.next_steps[place] for place in good],
        durable_steps=[submission.durable_steps[place] for place in good],
        outputs=[tensor_of(spec.name, array[good]) for spec, array in submission.outputs()] if good else [],
        failures=[
            sessions_pb2.StepFailure(
                session_id=ids[place], next_step=submission.next_steps[place], error=wire_error(errors[place])
            )
            for place in places
            if place in errors
        ],
    )


class ReplyWriter:
    """A stream's replies as bytes. Most are like the one before, of the same sessions and as many steps: then only
    the numbers and the outputs' bytes are written anew.
    """

    def __init__(self) -> None:
        self._response = sessions_pb2.StreamResponse()
        self._step = self._response.step
        self._ids: Sequence[str] = ()
        self._form: object = None
        self._tensors: list[tensor_pb2.Tensor] = []

    def write(self, submission: Submission, places: Sequence[int]) -> bytes:
        """The reply for the places that are answered together."""
        if submission.errors or len(places) != len(submission.session_ids):
            return _streamed(step_response(submission, places))
        ids, form = submission.session_ids, submission.form
        step = self._step
        if ids != self._ids or form != self._form:
            self._ids, self._form = ids, form
            step.CopyFrom(step_response(submission, places))
            self._tensors = step.outputs[:]
        step.tag = submission.tag
        step.next_steps[:] = submission.next_steps
        step.durable_steps[:] = submission.durable_steps
        for tensor, (_, array) in zip(self._tensors, submission.outputs(), strict=True):
            tensor.data = array.tobytes()
        return self._response.SerializeToString()


def _streamed(response: sessions_pb2.StepResponse) -> bytes:
    return sessions_pb2.StreamResponse(step=response).SerializeToString()


def step_of(request: sessions_pb2.SnapshotRequest | sessions_pb2.ForkRequest) -> int | None:
    """The step that is asked for; None is the present."""
    return request.step if request.HasField("step") else None


def wire_session(view: SessionView) -> sessions_pb2.Session:
    """A session as it travels."""
    session = sessions_pb2.Session(
        session_id=view.session_id,
        model=view.model.name,
        version=view.model.version,
        next_step=view.next_step,
        durable_step=view.durable_step,
        oldest_step=view.oldest_step,
        steps_in_flight=view.steps_in_flight,
        state_bytes=view.state_bytes,
        durability=wire_durability(view.durability),
        resident=view.resident,
        oldest_retained_step=view.oldest_retained_step,
        tenant=view.tenant,
        initial_state_digest=view.initial_state_digest,
        sizes=dict(view.sizes),
    )
    session.open_for.FromMilliseconds(round(view.open_for_s * 1000))
    session.idle_for.FromMilliseconds(round(view.idle_for_s * 1000))
    return session


def wire_model(view: ModelView) -> models_pb2.Model:
    """A model as it travels."""
    name, version = view.key
    if view.model is None:
        return models_pb2.Model(
            name=name, version=version, ready=False, fault=wire_error(view.fault) if view.fault else None
        )
    card, spec, independence = view.model.card, view.model.spec, view.model.batch_independence
    return models_pb2.Model(
        name=name,
        version=version,
        ready=view.takes_sessions,
        fault=wire_error(view.fault) if view.fault else None,
        family=card.family,
        task=card.task,
        licence=card.licence,
        digest=card.digest,
        engine=card.engine,
        inputs=[wire_spec(one) for one in spec.inputs],
        outputs=[wire_spec(one) for one in spec.outputs],
        state=[wire_spec(one, role=one.role, axes=one.axes) for one in spec.state],
        state_bytes=spec.state_bytes,
        batch_max=view.model.batch_max,
        batch_independence=models_pb2.BatchIndependence(
            holds=independence.holds, padding=independence.padding, rows_tested=independence.rows_tested
        ),
        sessions=view.sessions,
        axes=[
            models_pb2.Axis(name=one.name, size=one.size, size_min=one.size_min, size_max=one.size_max)
            for one in spec.axes
        ],
    )


def wire_specs(view: ModelView) -> tuple[list[tensor_pb2.TensorSpec], list[tensor_pb2.TensorSpec]]:
    """Inputs and outputs of a served model, for a client that has just opened a session."""
    assert view.model is not None, "a session's model is served"
    spec = view.model.spec
    return [wire_spec(one) for one in spec.inputs], [wire_spec(one) for one in spec.outputs]
