"""Requests of the Open Inference Protocol as nobody sends them: fields of any kind, and bytes that were changed."""

from ntm_serve.inference import service_pb2

NAMES = ["running-sum", "", "nothing", "seq:", "ü" * 50, "m" * 5000, "../1"]
VERSIONS = ["", "1", "2", "-1", "latest", "9" * 400]
IDS = [0, 1, 2, 3, -1, 2**63 - 1, -(2**63), "", "a", "b", "1", "~31", "x" * 128, "x" * 129, "ü😀\0", "a:b", "seq:a"]
SHAPES = [[1], [1, 1], [2, 1], [1, 2, 1], [], [0, 1], [-1], [-1, 1], [2**62, 1], [2**31, 2**31, 1], [1] * 40, [2, 2, 1]]
TYPES = ["FP32", "FP64", "BYTES", "BF16", "INT8", "", "float32", "BOOL"]
INPUTS = ["x", "y", "", "total", "ntm_snapshot", "x\0"]
OUTPUTS = ["y", "y", "x", "", "total", "ntm_snapshot"]
PARAMETERS = [
    "sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "triton_enable_empty_final_response",
    "ntm_step", "ntm_snapshot", "ntm_fork", "ntm_fork_step", "ntm_", "ntm_nothing", "headers", "anything", "",
]  # fmt: skip
NUMBERS = [0, 1, 2, 7, -1, 2**31, 2**63 - 1, -(2**63)]
RAW = [b"", b"\0\0\x80?", b"\0\0\x80?" * 2, b"\0\0\xc0\x7f", b"\xff" * 4, b"123", b"\0" * 4000]


def any_request(dice):
    """A request with fields of every kind: some are nearly right, some have nothing that is."""
    wild = dice.choice([0.02, 0.1, 0.5])

    def chosen(right, others):
        return dice.choice(others) if dice.random() < wild else right

    request = service_pb2.ModelInferRequest(
        model_name=chosen("running-sum", NAMES), model_version=chosen("", VERSIONS), id=chosen("r", ["", "r" * 3000])
    )
    if dice.random() > wild / 2:
        _put(request.parameters["sequence_id"], dice.choice(IDS))
    for name in ("sequence_start", "sequence_end"):
        if dice.random() > wild / 2:
            request.parameters[name].bool_param = dice.random() < 0.5
    for _ in range(chosen(0, [1, 2, 5])):
        _put_any(request.parameters[dice.choice(PARAMETERS)], dice)
    for _ in range(chosen(1, [0, 1, 2, 3])):
        steps = dice.choice([1, 1, 2])
        shape = chosen(dice.choice([[steps, 1], [1, steps, 1]]), SHAPES)
        tensor = request.inputs.add(name=chosen("x", INPUTS), datatype=chosen("FP32", TYPES), shape=shape)
        if dice.random() < wild / 2:
            _fill(tensor.contents, dice)
        if dice.random() < wild / 5:
            _put_any(tensor.parameters[dice.choice(["shared_memory_region", "classification", "a"])], dice)
        if dice.random() > wild / 4:
            request.raw_input_contents.append(chosen(b"\0\0\x80?" * steps, RAW))
    for _ in range(chosen(0, [1, 2])):
        output = request.outputs.add(name=dice.choice(OUTPUTS))
        if dice.random() < wild / 2:
            _put_any(output.parameters[dice.choice(["shared_memory_region", "classification", "a"])], dice)
    return request


def changed(data, dice):
    """The bytes with a few of them other, gone, doubled or new; often no message any more."""
    data = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 4, 16])):
        at = dice.randrange(len(data) + 1)
        kind = dice.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            data[at:at] = dice.randbytes(dice.choice([1, 2, 8]))
        elif kind == 2:
            del data[at : at + dice.choice([1, 2, 8])]
        elif kind == 3:
            data[at:at] = data[at : at + 16]
        elif kind == 4 and dice.random() < 0.2:
            del data[at:]
    return bytes(data)


def _put(parameter, value):
    if isinstance(value, str):
        parameter.string_param = value
    else:
        parameter.int64_param = value


def _put_any(parameter, dice):
    kind = dice.randrange(6)
    if kind == 0:
        parameter.bool_param = dice.random() < 0.5
    elif kind == 1:
        parameter.int64_param = dice.choice(NUMBERS)
    elif kind == 2:
        parameter.string_param = dice.choice([str(one) for one in IDS])
    elif kind == 3:
        parameter.double_param = dice.choice([0.0, 1.5, float("nan"), float("inf"), -1e308])
    elif kind == 4:
        parameter.uint64_param = abs(dice.choice(NUMBERS))


def _fill(contents, dice):
    for _ in range(dice.choice([1, 1, 2])):
        kind = dice.randrange(4)
        if kind == 0:
            contents.fp32_contents.extend([1.0] * dice.randrange(4))
        elif kind == 1:
            contents.int_contents.extend([dice.choice([0, 300, -1])] * dice.randrange(3))
        elif kind == 2:
            contents.bytes_contents.append(b"x")
        else:
            contents.SetInParent()
