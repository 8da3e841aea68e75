"""What a session begins with: the model's own initial state and sizes, or its caller's in place of them. Pure.

Rules of this file: what a caller gives is checked against the model before anybody steps from there; what is recorded
of a state tells later whether two sessions began with the same bits, and tells nothing else; a session of which nothing
is recorded began as the model does.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ntm_serve.errors import InvalidInput, SessionDiffers, StoreDamaged
from ntm_serve.sizes import OWN_SIZES, Sizes, chosen_sizes, sized_spec
from ntm_serve.snapshot import SavedState
from ntm_serve.spec import Array, StateSpec, StepSpec, expect_finite, expect_tensor, frozen
from ntm_serve.step_model import State, StepModel

# Of a digest in a message for people.
DIGITS_SHOWN = 12

_INITIAL_STATE, _SIZES = "initial_state", "sizes"


class Beginning(NamedTuple):
    """start: None is the model's own state. options: what is recorded of it, with the session and in its head in a
    store.
    """

    start: SavedState | None = None
    options: bytes = b""


AS_THE_MODEL = Beginning()


def beginning_with(model: StepModel, given: Mapping[str, Array], sizes: Sizes = OWN_SIZES) -> Beginning:
    """A beginning at step 0 with these state tensors `[...]`, without leading axes, in place of the model's own; those
    that are not given are the model's. model: the one of those sizes. Raises InvalidInput.
    """
    if not given:
        return Beginning(options=recorded(sizes=sizes))
    specs = model.spec.state
    unknown = sorted(set(given) - {spec.name for spec in specs})
    if unknown:
        raise InvalidInput(
            f"initial_state: expected some of {[spec.name for spec in specs]}, the state of model {model.card.key}, "
            f"got {unknown}"
        )
    for spec in specs:
        if spec.name in given:
            _expect(spec, given[spec.name])
    # Copied: what came from the wire lies within the bytes of its message, wherever it came to lie.
    state = tuple(
        frozen(np.array(given[spec.name], spec.numpy_dtype, order="C")) if spec.name in given else own
        for spec, own in zip(specs, model.initial_state, strict=True)
    )
    card = model.card
    saved = SavedState(card.name, card.version, card.digest, card.engine, "", 0, state)
    return Beginning(saved, recorded(digest=digest_of(model, state), sizes=sizes))


def recorded(*, digest: str = "", sizes: Sizes = OWN_SIZES) -> bytes:
    """What is recorded of a beginning with these; nothing where all is the model's own."""
    options: dict[str, object] = {_INITIAL_STATE: digest} if digest else {}
    if sizes:
        options[_SIZES] = dict(sizes)
    return json.dumps(options).encode() if options else b""


def digest_of(model: StepModel, state: State) -> str:
    """The sha256 of a state of this model, in hexadecimal digits: of its tensors' names, dtypes, shapes and bits."""
    sha = hashlib.sha256()
    for spec, array in zip(model.spec.state, state, strict=True):
        sha.update(f"{spec.name} {spec}\n".encode())
        sha.update(array.data)
    return sha.hexdigest()


def recorded_digest(options: bytes) -> str:
    """The digest of the state that a session began with; empty where that was the model's own. Raises StoreDamaged."""
    return _read(options)[0]


def recorded_sizes(options: bytes) -> Sizes:
    """The sizes that a session was opened with. Raises StoreDamaged."""
    return _read(options)[1]


def shown(options: bytes) -> tuple[str, Sizes]:
    """Both, for a list: of a session that is damaged nothing, which is no matter of the others'."""
    try:
        return _read(options)
    except StoreDamaged:
        return "", OWN_SIZES


def expect_same_sizes(session_id: str, actual: Sizes, spec: StepSpec, given: Mapping[str, int]) -> None:
    """Refuse to resume a session with other sizes than it has; what is not given may be anything. spec: of its model at
    its own sizes. Raises InvalidInput, SessionDiffers.
    """
    chosen_sizes(spec, given)
    has = {axis.name: axis.size for axis in sized_spec(spec, actual).axes}
    if any(has[name] != size for name, size in given.items()):
        raise SessionDiffers(
            f"session {session_id}: cannot be resumed with sizes {dict(given)}: it was opened with {has}; resume it "
            "without, choose another name, or close it"
        )


def expect_same_beginning(session_id: str, options: bytes, model: StepModel, given: Mapping[str, Array]) -> None:
    """Refuse to resume a session that began with another state. options: what is recorded of it. model: of its sizes.
    Raises InvalidInput, SessionDiffers.
    """
    expected = recorded_digest(options) or digest_of(model, model.initial_state)
    actual = recorded_digest(beginning_with(model, given).options)
    if actual != expected:
        own = "" if recorded_digest(options) else "the model's own, "
        raise SessionDiffers(
            f"session {session_id}: cannot be resumed with this initial_state: it began with {own}sha256 "
            f"{expected[:DIGITS_SHOWN]}, got {actual[:DIGITS_SHOWN]}; resume it without, choose another name, or "
            "close it"
        )


def _read(options: bytes) -> tuple[str, Sizes]:
    if not options:
        return "", OWN_SIZES
    try:
        fields = json.loads(options)
        sizes = [(str(name), int(size)) for name, size in fields.get(_SIZES, {}).items()]
        return str(fields.get(_INITIAL_STATE, "")), tuple(sorted(sizes))
    except (ValueError, AttributeError, TypeError) as fault:
        raise StoreDamaged(f"options: expected what is recorded of its beginning, got {options!r}") from fault


def _expect(spec: StateSpec, array: Array) -> None:
    try:
        expect_tensor(spec, array, leading=())
        expect_finite(spec.name, array)
    except InvalidInput as fault:
        raise InvalidInput(f"initial_state: {fault.message}") from fault
