"""Between JSON and the service's types: docs/http-api.md says what is written here. Pure."""

import base64
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from starlette.datastructures import QueryParams

from ntm_serve.caller import KEY_BEGINNING
from ntm_serve.errors import InvalidInput, LimitReached, NtmServeError, TooLarge
from ntm_serve.history import Point
from ntm_serve.picture import Frame, Picture, Reduction
from ntm_serve.search import Order, Place, Query, Tier
from ntm_serve.spec import Array, StateSpec, TensorSpec, described, expect_finite
from ntm_serve.views import ModelView, SessionView
from ntm_serve.watching import Wish
from ntm_serve.wire import code_of

PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX = 100, 1000

# What `query_of` and `wish_of` read.
QUERY_PARAMETERS = ("prefix", "model", "tier", "sort", "page_size", "page_token")
WISH_PARAMETERS = ("tensors", "rows_max", "columns_max", "reduction")

# As the rest of the world maps gRPC's statuses.
STATUS_OF_CODE: Mapping[str, int] = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
}

# Where HTTP has a word of its own: 429 says to come again later.
STATUS_OF_ERROR: Mapping[type[NtmServeError], int] = {TooLarge: 413}

Json = dict[str, Any]


def error_json(error: NtmServeError, *, status: int | None = None) -> Json:
    """status: where HTTP has a word of its own for it."""
    code = code_of(error).name
    return {
        "status": status or STATUS_OF_ERROR.get(type(error)) or STATUS_OF_CODE[code],
        "code": code,
        "reason": error.reason,
        "message": error.message,
        "fields": error.fields,
        "retry_after_s": error.retry_after_s if isinstance(error, LimitReached) else None,
    }


def spec_json(spec: TensorSpec) -> Json:
    role = spec.role if isinstance(spec, StateSpec) else ""
    axes = list(spec.axes) if isinstance(spec, StateSpec) else []
    bounds = None if spec.range is None else spec.range._asdict()
    return {
        "name": spec.name,
        "dtype": spec.dtype,
        "shape": list(spec.shape),
        "role": role,
        "axes": axes,
        "range": bounds,
    }


def model_json(view: ModelView) -> Json:
    """A model without what is counted of it."""
    name, version = view.key
    told = {
        "name": name,
        "version": version,
        "ready": view.takes_sessions,
        "fault": None if view.fault is None else error_json(view.fault),
        "sessions": view.sessions,
    }
    model = view.model
    if model is None:
        absent = ("family", "task", "licence", "digest", "engine", "state_bytes", "batch_max", "batch_independence")
        return {**told, **dict.fromkeys(absent), "inputs": [], "outputs": [], "state": [], "axes": []}
    card, spec, independence = model.card, model.spec, model.batch_independence
    return {
        **told,
        "family": card.family,
        "task": card.task,
        "licence": card.licence,
        "digest": card.digest,
        "engine": card.engine,
        "inputs": [spec_json(one) for one in spec.inputs],
        "outputs": [spec_json(one) for one in spec.outputs],
        "state": [spec_json(one) for one in spec.state],
        "axes": [asdict(one) for one in spec.axes],
        "state_bytes": spec.state_bytes,
        "batch_max": model.batch_max,
        "batch_independence": {
            "holds": independence.holds,
            "padding": independence.padding,
            "rows_tested": independence.rows_tested,
        },
    }


def point_json(point: Point) -> Json:
    return point._asdict()


def session_json(view: SessionView) -> Json:
    return {
        "session_id": view.session_id,
        "model": view.model.name,
        "version": view.model.version,
        "next_step": view.next_step,
        "durable_step": view.durable_step,
        "oldest_step": view.oldest_step,
        "oldest_retained_step": view.oldest_retained_step,
        "steps_in_flight": view.steps_in_flight,
        "state_bytes": view.state_bytes,
        "open_for_s": view.open_for_s,
        "idle_for_s": view.idle_for_s,
        "durability": view.durability.value,
        "tier": (Tier.RESIDENT if view.resident else Tier.STORED).value,
        "initial_state_digest": view.initial_state_digest,
        "sizes": dict(view.sizes),
        "tenant": view.tenant,
    }


def frame_json(frame: Frame) -> Json:
    return {
        "next_step": frame.next_step,
        "taken_at_s": frame.taken_at_s,
        "lost": frame.lost,
        "tier": (Tier.RESIDENT if frame.resident else Tier.STORED).value,
        "state": [picture_json(one) for one in frame.state],
        "first_step": frame.first_step,
        "inputs": [picture_json(one) for one in frame.inputs],
        "outputs": [picture_json(one) for one in frame.outputs],
    }


def picture_json(picture: Picture) -> Json:
    return {
        "name": picture.name,
        "role": picture.role,
        "dtype": picture.dtype,
        "full_shape": list(picture.full_shape),
        "shape": list(picture.array.shape),
        "blocks": list(picture.blocks),
        "data": base64.b64encode(picture.array.astype("<f4").tobytes()).decode(),
    }


def expect_known(asked: QueryParams, known: Collection[str]) -> None:
    """A parameter that nothing reads is a typing error more often than not. Raises InvalidInput."""
    unknown = sorted(set(asked) - set(known))
    if unknown:
        raise InvalidInput(f"query: expected parameters of {', '.join(known) or 'none'}, got {', '.join(unknown)}")


def query_of(asked: QueryParams) -> Query:
    """Raises InvalidInput."""
    sort = asked.get("sort", "id")
    descending, name = sort.startswith("-"), sort.removeprefix("-")
    if name not in list(Order):
        raise InvalidInput(f"sort: expected {', '.join(Order)}, or one with - before it, got {sort!r}")
    tier = asked.get("tier", "")
    if tier not in ("", *Tier):
        raise InvalidInput(f"tier: expected {', '.join(Tier)}, got {tier!r}")
    size = whole_of(asked, "page_size", PAGE_SIZE_DEFAULT)
    if size < 1:
        raise InvalidInput(f"page_size: expected at least 1, got {size}")
    token = asked.get("page_token", "")
    return Query(
        prefix=asked.get("prefix", ""),
        model=asked.get("model", ""),
        tier=Tier(tier) if tier else None,
        order=Order(name),
        descending=descending,
        page_size=min(size, PAGE_SIZE_MAX),
        after=_place_of(token) if token else None,
    )


def token_of(place: Place) -> str:
    """What `query_of` reads as the place of the page before."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _place_of(token: str) -> Place:
    try:
        value, key = json.loads(base64.urlsafe_b64decode(token.encode()))
        place = Place(value, key)
    except (ValueError, TypeError):
        place = None
    known = place is not None and type(place.value) in (int, float) and isinstance(place.key, str)
    if place is None or not known or not KEY_BEGINNING.fullmatch(place.key):
        raise InvalidInput("page_token: expected the next_page_token of the page before, got something else")
    return place


def wish_of(asked: QueryParams) -> Wish:
    """Raises InvalidInput."""
    reduction = asked.get("reduction", Reduction.PEAK.value)
    if reduction not in list(Reduction):
        raise InvalidInput(f"reduction: expected {', '.join(Reduction)}, got {reduction!r}")
    sizes = {name: whole_of(asked, name, 0) for name in ("rows_max", "columns_max")}
    for name, size in sizes.items():
        if name in asked and size < 1:
            raise InvalidInput(f"{name}: expected at least 1, got {size}")
    said = asked.get("frames_per_s", "")
    try:
        frames_per_s = float(said or 0)
    except ValueError:
        frames_per_s = math.nan
    if said and not frames_per_s > 0:
        raise InvalidInput(f"frames_per_s: expected a number above 0, got {said!r}")
    return Wish(tensors=asked.getlist("tensors"), frames_per_s=frames_per_s, reduction=Reduction(reduction), **sizes)


def whole_of(asked: QueryParams, name: str, default: int | None) -> Any:
    """A whole number, or the default where none is said. Raises InvalidInput."""
    said = asked.get(name, "")
    if not said:
        return default
    # As isdigit() takes digits of every script, and int() underscores.
    if not (said.isascii() and said.removeprefix("-").isdigit() and len(said) < 19):
        raise InvalidInput(f"{name}: expected a whole number, got {said!r}")
    return int(said)


def arrays_of(specs: Sequence[TensorSpec], inputs: object) -> dict[str, Array]:
    """A message's inputs, `[1, T, ...]` by name, of nested arrays `[T, ...]`. Raises InvalidInput; what else is wrong
    with them is the service's to say.
    """
    if not isinstance(inputs, dict):
        raise InvalidInput("inputs: expected an object of nested arrays by the inputs' names")
    by_name = {spec.name: spec for spec in specs}
    unknown = sorted(set(inputs) - set(by_name))
    if unknown:
        raise InvalidInput(f"inputs: expected {sorted(by_name)}, got {unknown}")
    arrays = {name: _array_of(by_name[name], given) for name, given in inputs.items()}
    steps = {name: len(array) for name, array in arrays.items()}
    if len(set(steps.values())) > 1:
        raise InvalidInput(f"inputs: expected as many steps of each, got {steps}")
    return {name: array[np.newaxis] for name, array in arrays.items()}


def _array_of(spec: TensorSpec, given: object) -> Array:
    expected = described(spec.dtype, ("T", *spec.shape))
    try:
        array = np.array(given)
    except ValueError:
        raise InvalidInput(f"{spec.name}: expected {expected}, got nested arrays of unequal lengths") from None
    if not array.size or array.ndim == 0 or array.shape[1:] != spec.shape:
        raise InvalidInput(f"{spec.name}: expected {expected}, T at least 1, got {list(array.shape)}")
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and spec.numpy_dtype.kind != "f"):
        raise InvalidInput(f"{spec.name}: expected {expected} as nested arrays of numbers, got {array.dtype} in them")
    with np.errstate(over="ignore"):
        fitting: Array = array.astype(spec.numpy_dtype)
    if spec.numpy_dtype.kind != "f" and not (fitting == array).all():
        raise InvalidInput(f"{spec.name}: expected numbers that are {spec.dtype}")
    expect_finite(spec.name, fitting)
    return fitting


def nested(array: Array) -> Any:
    """An array as nested lists; what is not finite, which JSON cannot say, is None."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        told = array.astype(object)
        told[~np.isfinite(array)] = None
        return told.tolist()
    return array.tolist()
