"""What a user of tritonclient writes, run by the interpreter that has it: `python calls.py TARGET INPUTS.npz OUT`.

Leaves OUT.npz with every output, and OUT.json with whatever else was seen. Imports nothing of ours: the names of both
protocols' messages are the same.
"""

import asyncio
import json
import queue
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as aioclient
from tritonclient.utils import InferenceServerException

MODEL = "copy-ff"
WAIT_S = 30


def tensors(x, module=grpcclient):
    """x as an input."""
    tensor = module.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    return [tensor]


def ends(steps):
    """START and END of each step of a sequence."""
    return [{"sequence_start": t == 0, "sequence_end": t == steps - 1} for t in range(steps)]


def unary(client, x):
    """A step a call, with an integer for an id."""
    marks = ends(len(x))
    replies = [client.infer(MODEL, tensors(x[t : t + 1]), sequence_id=11, **marks[t]) for t in range(len(x))]
    return np.concatenate([reply.as_numpy("y") for reply in replies])


def callbacks(client, x):
    """async_infer, with a string for an id; each sent when the one before was answered."""
    answers, rows, marks = queue.Queue(), [], ends(len(x))
    for t in range(len(x)):
        client.async_infer(
            MODEL,
            tensors(x[t : t + 1]),
            lambda result, error: answers.put((result, error)),
            sequence_id="b",
            **marks[t],
        )
        result, error = answers.get(timeout=WAIT_S)
        assert error is None, error
        rows.append(result.as_numpy("y"))
    return np.concatenate(rows)


def stream(client, x, ids):
    """All sequences on one stream, everything sent before anything is read."""
    answers, order, marks = queue.Queue(), [], ends(x.shape[1])
    client.start_stream(lambda result, error: answers.put((result, error)))
    rows = {one: [] for one in ids}
    for t in range(x.shape[1]):
        for k, one in enumerate(ids):
            client.async_stream_infer(
                MODEL, tensors(x[k, t : t + 1]), sequence_id=one, request_id=f"{k}.{t}",
                enable_empty_final_response=True, **marks[t],
            )  # fmt: skip
    for t in range(x.shape[1]):
        for k, one in enumerate(ids):
            result, error = answers.get(timeout=WAIT_S)
            assert error is None, error
            response = result.get_response()
            order.append(response.id == f"{k}.{t}")
            assert response.parameters["triton_final_response"].bool_param
            rows[one].append(result.as_numpy("y"))
    client.stop_stream()
    assert all(order), "replies out of order"
    return np.stack([np.concatenate(rows[one]) for one in ids])


def stream_errors(client, x):
    """An error on a stream, and the reply after it."""
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer(MODEL, tensors(x[:1]), sequence_id=404, request_id="lost")
    client.async_stream_infer(MODEL, tensors(x[:1]), sequence_id=405, sequence_start=True, sequence_end=True)
    (_, error), (result, none) = answers.get(timeout=WAIT_S), answers.get(timeout=WAIT_S)
    client.stop_stream()
    assert none is None, none
    return error.message(), result.as_numpy("y")


def extras(client, x):
    """Steps at once, their numbers, a retry, a snapshot and a fork."""
    first = client.infer(
        MODEL, tensors(x), sequence_id=21, sequence_start=True, parameters={"ntm_step": 0, "ntm_snapshot": True}
    )
    again = client.infer(MODEL, tensors(x[np.newaxis]), sequence_id=21, parameters={"ntm_step": 0})
    snapshot = first.as_numpy("ntm_snapshot")
    restored = grpcclient.InferInput("ntm_snapshot", list(snapshot.shape), "UINT8")
    restored.set_data_from_numpy(snapshot)
    after = client.infer(MODEL, tensors(x[:1]), sequence_id=21).as_numpy("y")
    outputs = [grpcclient.InferRequestedOutput("y")]
    from_snapshot = client.infer(
        MODEL, [*tensors(x[:1]), restored], sequence_id=22, sequence_start=True, outputs=outputs
    )
    fork = client.infer(MODEL, tensors(x[1:2]), sequence_id="f", sequence_start=True, parameters={"ntm_fork": 21})
    original = client.infer(MODEL, tensors(x[1:2]), sequence_id=21, sequence_end=True)
    return {
        "many": first.as_numpy("y"),
        "retried": again.as_numpy("y")[0],
        "after": after,
        "restored": from_snapshot.as_numpy("y"),
        "fork": fork.as_numpy("y"),
        "original": original.as_numpy("y"),
        "next_step": np.array(first.get_response().parameters["ntm_next_step"].int64_param),
    }


def without_memory(client, rows):
    """Rows of a model that keeps nothing; two requests of a sequence of one that was imported."""
    tensor = grpcclient.InferInput("x", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    x = grpcclient.InferInput("x", [2, 3], "FP32")
    x.set_data_from_numpy(np.ones((2, 3), np.float32))
    client.infer("sum", [x], sequence_id="s", sequence_start=True)
    total = client.infer("sum", [x], sequence_id="s", sequence_end=True)
    return {"rows": client.infer("perceptron", [tensor]).as_numpy("y"), "total": total.as_numpy("y")}


def errors(client, x):
    """What calls that cannot be answered say: status and text."""
    said = {}
    x = x[:1]
    for name, call in {
        "not started": lambda: client.infer(MODEL, tensors(x), sequence_id=999),
        "no sequence": lambda: client.infer(MODEL, tensors(x)),
        "no model": lambda: client.infer("nothing", tensors(x), sequence_id=1),
        "wrong shape": lambda: client.infer(MODEL, tensors(x[:, :5]), sequence_id=1, sequence_start=True),
        "shared memory": lambda: client.get_system_shared_memory_status(),
        "trace": lambda: client.get_trace_settings(),
        "log": lambda: client.get_log_settings(),
    }.items():
        try:
            call()
        except InferenceServerException as error:
            said[name] = [error.status(), error.message()]
    return said


def repository(client, x):
    """Unload, see it gone, load, use it."""
    client.unload_model(MODEL)
    gone = client.is_model_ready(MODEL)
    index = {one.name: [one.state, one.reason] for one in client.get_model_repository_index().models}
    client.load_model(MODEL)
    client.infer(MODEL, tensors(x[:1]), sequence_id=31, sequence_start=True, sequence_end=True)
    return {"ready while unloaded": gone, "index": index, "ready again": client.is_model_ready(MODEL)}


def facts(client):
    """What a client asks before it infers, and after."""
    config = client.get_model_config(MODEL, as_json=True)["config"]
    statistics = client.get_inference_statistics(MODEL, as_json=True)["model_stats"][0]
    return {
        "live": [client.is_server_live(), client.is_server_ready()],
        "ready": [client.is_model_ready(MODEL), client.is_model_ready("nothing")],
        "server": client.get_server_metadata(as_json=True),
        "metadata": client.get_model_metadata(MODEL, as_json=True),
        "batch": config["max_batch_size"],
        "inputs": [one["name"] for one in config["input"]],
        "idle_us": config["sequence_batching"]["max_sequence_idle_microseconds"],
        "statistics": statistics,
    }


async def asynchronous(target, x):
    """The asyncio client: a call, then a stream."""
    async with aioclient.InferenceServerClient(target) as client:
        marks = ends(len(x))
        first = await client.infer(MODEL, tensors(x[:1], aioclient), sequence_id="aio", **marks[0])
        rows = [first.as_numpy("y")]

        async def requests():
            for t in range(1, len(x)):
                yield {
                    "model_name": MODEL, "inputs": tensors(x[t : t + 1], aioclient), "sequence_id": "aio", **marks[t],
                }  # fmt: skip

        async for result, error in client.stream_infer(requests()):
            assert error is None, error
            rows.append(result.as_numpy("y"))
        return np.concatenate(rows)


def main():
    """Everything, in order."""
    target, inputs, out = sys.argv[1:]
    x = np.load(inputs)["x"]
    with grpcclient.InferenceServerClient(target) as client:
        outputs = {
            "unary": unary(client, x[0]),
            "callbacks": callbacks(client, x[1]),
            "stream": stream(client, x, [101, "user-7", "7", 7]),
            "aio": asyncio.run(asynchronous(target, x[2])),
            **extras(client, x[3]),
            **without_memory(client, x[0, :5, :8]),
        }
        in_stream, outputs["after_error"] = stream_errors(client, x[0])
        seen = {"facts": facts(client), "errors": errors(client, x[0]), "in stream": in_stream}
        seen["repository"] = repository(client, x[0])
    np.savez(f"{out}.npz", **outputs)
    Path(f"{out}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
