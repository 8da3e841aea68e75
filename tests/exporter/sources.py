"""The programs whose weights are imported, each as its own description has it: arrays of the right shapes, and its step
in numpy, in its own order and under its own names, one session at a time. Nothing here comes from the importers.
"""

import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softplus(z):
    return np.log1p(np.exp(z))


def relu(z):
    return np.maximum(z, 0)


def softmax(z):
    powers = np.exp(z - np.max(z))
    return powers / powers.sum()


def correlated(w, s):
    """Circular: what comes to slot i is s[0] of the slot before it."""
    return s[0] * np.roll(w, 1) + s[1] * w + s[2] * np.roll(w, -1)


def cosine(memory, k, epsilon=1e-6):
    return memory @ k / (np.linalg.norm(memory, axis=1) * np.linalg.norm(k) + epsilon)


def powered(w, gamma, epsilon):
    return w**gamma / (np.sum(w**gamma) + epsilon)


def torch_cell(x, h, c, weights):
    """torch's LSTMCell: gates input, forget, candidate, output."""
    weight_ih, weight_hh, bias_ih, bias_hh = weights
    i, f, g, o = np.split(weight_ih @ x + weight_hh @ h + bias_ih + bias_hh, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


# snipsco/ntm-lasagne


def lasagne_arrays(random, slots=7, width=4, units=6, inputs=9, outputs=9):
    def normal(*shape):
        return random.normal(0, 0.7, shape)

    arrays = {
        "hid_init": normal(1, units), "W_in_to_hid": normal(inputs, units), "b_in_to_hid": normal(units),
        "W_reads_to_hid": normal(width, units), "b_reads_to_hid": normal(units), "memory_init": normal(slots, width),
    }  # fmt: skip
    for head in ("write", "read"):
        arrays[f"{head}.weights_init"] = random.dirichlet(np.ones(slots), 1)
        for part, rows in (("key", width), ("beta", 1), ("gate", 1), ("shift", 3), ("gamma", 1)):
            arrays |= {f"{head}.{part}_W": normal(units, rows), f"{head}.{part}_b": normal(rows)}
    for part in ("erase", "add"):
        arrays |= {f"write.{part}_W": normal(units, width), f"write.{part}_b": normal(width)}
    return arrays | {"dense_W": normal(units, outputs), "dense_b": normal(outputs)}


def lasagne_run(a, x, _settings):
    def hard(z):
        return np.clip(0.2 * z + 0.5, 0, 1)

    def of(name, h):
        return h @ a[f"{name}_W"] + a[f"{name}_b"]

    def address(head, h, memory, w):
        k, gate = relu(of(f"{head}.key", h)), hard(of(f"{head}.gate", h))
        squares = (k @ k) * (memory * memory).sum(axis=1)
        content = softmax(relu(of(f"{head}.beta", h)) * (memory @ k) / np.sqrt(squares + 1e-6))
        s = softmax(of(f"{head}.shift", h))
        w = np.pad(gate * content + (1 - gate) * w, 1)
        w = s[0] * w[2:] + s[1] * w[1:-1] + s[2] * w[:-2]
        return softmax((1 + relu(of(f"{head}.gamma", h))) * np.log(w + 1e-6))

    memory, h = a["memory_init"], a["hid_init"][0]
    writing, reading, given = a["write.weights_init"][0], a["read.weights_init"][0], []
    for row in x:
        erase, add = hard(of("write.erase", h)), relu(of("write.add", h))
        memory = memory * (1 - np.outer(writing, erase)) + np.outer(writing, add)
        seen = row @ a["W_in_to_hid"] + a["b_in_to_hid"] + reading @ memory @ a["W_reads_to_hid"] + a["b_reads_to_hid"]
        h = relu(seen)
        writing, reading = address("write", h, memory, writing), address("read", h, memory, reading)
        given.append(sigmoid(of("dense", h)))
    return np.array(given)


# vlgiitr/ntm-pytorch


def vlgiitr_arrays(random, slots=7, width=4, units=6, inputs=10, outputs=8):
    def linear(name, rows, columns):
        return {f"{name}.weight": random.normal(0, 0.7, (rows, columns)), f"{name}.bias": random.normal(0, 0.7, rows)}

    cell = "controller.controller_net"
    arrays = {
        f"{cell}.weight_ih": random.normal(0, 0.7, (4 * units, inputs + width)),
        f"{cell}.weight_hh": random.normal(0, 0.7, (4 * units, units)),
        f"{cell}.bias_ih": random.normal(0, 0.7, 4 * units),
        f"{cell}.bias_hh": random.normal(0, 0.7, 4 * units),
        **linear("controller.out_net", outputs, units + width),
        **linear("controller.h_bias_fc", units, 1),
        **linear("controller.c_bias_fc", units, 1),
        **linear("memory.memory_bias_fc", slots * width, 1),
    }
    parts = {
        "key_fc": width, "key_strength_fc": 1, "interpolation_gate_fc": 1, "shift_weighting_fc": 3,
        "sharpen_factor_fc": 1, "write_data_fc": width,
    }  # fmt: skip
    for head in (0, 1):
        for part, rows in parts.items():
            arrays |= linear(f"heads.{head}.{part}", rows, units)
    return arrays


def vlgiitr_run(a, x, _settings):
    def of(name, z):
        return a[f"{name}.weight"] @ z + a[f"{name}.bias"]

    def address(head, c, memory, w):
        strength = softplus(of(f"{head}.key_strength_fc", c))
        content = softmax(strength * cosine(memory, of(f"{head}.key_fc", c)))
        gate = sigmoid(of(f"{head}.interpolation_gate_fc", c))
        w = correlated(gate * content + (1 - gate) * w, softmax(of(f"{head}.shift_weighting_fc", c)))
        return powered(w, 1 + softplus(of(f"{head}.sharpen_factor_fc", c)), 1e-16)

    zero = np.zeros(1)  # What the first state is projected from.
    h, c = of("controller.h_bias_fc", zero), of("controller.c_bias_fc", zero)
    width = len(a["heads.0.key_fc.bias"])
    memory = sigmoid(of("memory.memory_bias_fc", zero)).reshape(-1, width)
    reading = writing = np.zeros(len(memory))
    read, given = np.zeros(width), []
    cell = [a[f"controller.controller_net.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    for row in x:
        h, c = torch_cell(np.concatenate([row, read]), h, c, cell)
        reading = address("heads.0", c, memory, reading)
        read = reading @ memory
        writing = address("heads.1", c, memory, writing)
        memory = np.outer(writing, of("heads.1.write_data_fc", c)) + (1 - writing[:, np.newaxis]) * memory
        given.append(sigmoid(of("controller.out_net", np.concatenate([h, read]))))
    return np.array(given)


# carpedm20/NTM-tensorflow


def carpedm20_arrays(random, slots=7, width=4, units=6, inputs=10, outputs=10):
    def linear(name, columns, rows):
        return {f"{name}_w": random.normal(0, 0.7, (columns, rows)), f"{name}_b": random.normal(0, 0.7, rows)}

    arrays = {"NTM|init_cell|Variable": np.array([[0.7]])}
    for gate in ("input", "forget", "output", "update"):
        arrays[f"NTM|controller|{gate}_gate_0|Matrix"] = random.normal(0, 0.7, (inputs + units + width, units))
        arrays[f"NTM|controller|{gate}_gate_0|Bias"] = random.normal(0, 0.7, units)
    first = {
        "M_init_linear": slots * width, "read_init_0": width, "read_w_0": slots, "write_w_0": slots,
        "output_init_0": units, "hidden_init_0": units, "new_output": outputs,
    }  # fmt: skip
    for name, rows in first.items():
        arrays |= linear(f"NTM|init_cell|Linear|{name}", 1, rows)
    for head in ("read", "write"):
        for part, rows in (("k", width), ("beta", 1), ("g", 1), ("s_w", 3), ("gamma", 1)):
            arrays |= linear(f"NTM|memory|{head}|{part}|Linear|{part}_0", units, rows)
    for part in ("erase", "add"):
        arrays |= linear(f"NTM|memory|write|Linear|{part}_0", units, width)
    return arrays | linear("NTM|output|Linear|output", units, outputs)


def carpedm20_run(a, x, _settings):
    def of(name, z):
        return z @ a[f"{name}_w"] + a[f"{name}_b"]

    def address(head, o, memory, w):
        def part(name):
            return of(f"NTM|memory|{head}|{name}|Linear|{name}_0", o)

        content = softmax(softplus(part("beta")) * cosine(memory, np.tanh(part("k")), 1e-3))
        gate, s = sigmoid(part("g")), softmax(part("s_w"))
        w = gate * content + (1 - gate) * w
        # A true convolution: the flip of what the others do.
        return powered(correlated(w, s[::-1]), 1 + softplus(part("gamma")), 0)

    def first(name):
        return of(f"NTM|init_cell|Linear|{name}", a["NTM|init_cell|Variable"])[0]

    memory, read = np.tanh(first("M_init_linear")), np.tanh(first("read_init_0"))
    memory = memory.reshape(-1, len(read))
    reading, writing = softmax(first("read_w_0")), softmax(first("write_w_0"))
    o, h, given = np.tanh(first("output_init_0")), np.tanh(first("hidden_init_0")), []
    for row in x:
        seen = np.concatenate([row, o, read])
        gates = {
            name: seen @ a[f"NTM|controller|{name}_gate_0|Matrix"] + a[f"NTM|controller|{name}_gate_0|Bias"]
            for name in ("input", "forget", "output", "update")
        }
        h = sigmoid(gates["forget"]) * h + sigmoid(gates["input"]) * np.tanh(gates["update"])
        o = sigmoid(gates["output"]) * np.tanh(h)
        reading = address("read", o, memory, reading)
        read = reading @ memory
        writing = address("write", o, memory, writing)
        erase, add = (of(f"NTM|memory|write|Linear|{part}_0", o) for part in ("erase", "add"))
        memory = memory * (1 - np.outer(writing, sigmoid(erase))) + np.outer(writing, np.tanh(add))
        given.append(sigmoid(of("NTM|output|Linear|output", o)))
    return np.array(given)


# loudinthecloud/pytorch-ntm


def pytorch_ntm_arrays(random, slots=7, width=4, units=6, inputs=9, outputs=8):
    def normal(*shape):
        return random.normal(0, 0.7, shape)

    return {
        "ntm.read0_bias": normal(1, width),
        "ntm.controller.lstm_h_bias": normal(1, 1, units),
        "ntm.controller.lstm_c_bias": normal(1, 1, units),
        "ntm.controller.lstm.weight_ih_l0": normal(4 * units, inputs + width),
        "ntm.controller.lstm.weight_hh_l0": normal(4 * units, units),
        "ntm.controller.lstm.bias_ih_l0": normal(4 * units),
        "ntm.controller.lstm.bias_hh_l0": normal(4 * units),
        "ntm.memory.mem_bias": normal(slots, width),
        "ntm.heads.0.fc_read.weight": normal(width + 6, units),
        "ntm.heads.0.fc_read.bias": normal(width + 6),
        "ntm.heads.1.fc_write.weight": normal(3 * width + 6, units),
        "ntm.heads.1.fc_write.bias": normal(3 * width + 6),
        "ntm.fc.weight": normal(outputs, units + width),
        "ntm.fc.bias": normal(outputs),
    }


def pytorch_ntm_run(a, x, settings):
    old, width = settings.activations == "2017", a["ntm.memory.mem_bias"].shape[1]

    def parts(name, h, *sizes):
        return np.split(a[f"{name}.weight"] @ h + a[f"{name}.bias"], np.cumsum(sizes)[:-1])

    def address(k, beta, g, s, gamma, memory, w):
        k, beta = (relu(k), relu(beta)) if old else (k, softplus(beta))
        content = softmax(beta * cosine(memory, k))
        s, gamma = (softmax(relu(s)), 1 + relu(gamma)) if old else (softmax(s), 1 + softplus(gamma))
        return powered(correlated(sigmoid(g) * content + (1 - sigmoid(g)) * w, s), gamma, 1e-16)

    memory, read = a["ntm.memory.mem_bias"], a["ntm.read0_bias"][0]
    h, c = a["ntm.controller.lstm_h_bias"][0, 0], a["ntm.controller.lstm_c_bias"][0, 0]
    reading, writing, given = np.zeros(len(memory)), np.zeros(len(memory)), []
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    cell = [a[f"ntm.controller.lstm.{name}"] for name in names]
    for row in x:
        h, c = torch_cell(np.concatenate([row, read]), h, c, cell)
        reading = address(*parts("ntm.heads.0.fc_read", h, width, 1, 1, 3, 1), memory, reading)
        read = reading @ memory
        *place, erase, add = parts("ntm.heads.1.fc_write", h, width, 1, 1, 3, 1, width, width)
        writing = address(*place, memory, writing)
        erase, add = (relu(erase), relu(add)) if old else (sigmoid(erase), add)
        memory = memory * (1 - np.outer(writing, erase)) + np.outer(writing, add)
        given.append(sigmoid(a["ntm.fc.weight"] @ np.concatenate([h, read]) + a["ntm.fc.bias"]))
    return np.array(given)


# Mostafa-Samir/DNC-tensorflow


def dnc_arrays(random, slots=0, width=4, units=6, inputs=6, outputs=6):
    def normal(*shape):
        return random.normal(0, 0.7, shape)

    return {
        "controller|interface_weights": normal(units + 1, 4 * width + 8),
        "controller|layer1_W": normal(inputs + width, units),
        "controller|layer1_b": normal(units),
        "controller|layer2_W": normal(units, units + 1),
        "controller|layer2_b": normal(units + 1),
        "controller|mem_output_weights": normal(width, outputs),
        "controller|nn_output_weights": normal(units + 1, outputs),
    }


def dnc_run(a, x, settings):
    width, slots = len(a["controller|mem_output_weights"]), settings.slots
    memory, read = np.full((slots, width), 1e-6), np.full(width, 1e-6)
    reading, writing = np.full(slots, 1e-6), np.full(slots, 1e-6)
    usage, precedence, link, given = np.zeros(slots), np.zeros(slots), np.zeros((slots, slots)), []

    def content(k, strength, of):
        return softmax((1 + softplus(strength)) * cosine(of, k, 0))

    for row in x:
        h = relu(np.concatenate([row, read]) @ a["controller|layer1_W"] + a["controller|layer1_b"])
        h = relu(h @ a["controller|layer2_W"] + a["controller|layer2_b"])
        interface = h @ a["controller|interface_weights"]
        ends = np.cumsum([width, 1, width, 1, width, width, 1, 1, 1])
        read_key, read_beta, write_key, write_beta, erase, add, free, allocate, write, modes = np.split(interface, ends)

        usage = (usage + writing - usage * writing) * (1 - sigmoid(free) * reading)
        allocation, product = np.zeros(slots), 1.0
        for at in np.argsort(usage.astype(np.float32), kind="stable"):
            allocation[at] = (1 - usage[at]) * product
            product *= usage[at]
        found = content(write_key, write_beta, memory)
        writing = sigmoid(write) * (sigmoid(allocate) * allocation + (1 - sigmoid(allocate)) * found)
        memory = memory * (1 - np.outer(writing, sigmoid(erase))) + np.outer(writing, add)
        for i in range(slots):
            for j in range(slots):
                link[i, j] = (1 - writing[i] - writing[j]) * link[i, j] + writing[i] * precedence[j] if i != j else 0
        precedence = (1 - writing.sum()) * precedence + writing
        shares = softmax(modes)
        reading = (
            shares[0] * (link.T @ reading) + shares[1] * content(read_key, read_beta, memory)
            + shares[2] * (link @ reading)
        )  # fmt: skip
        read = reading @ memory
        given.append(sigmoid(h @ a["controller|nn_output_weights"] + read @ a["controller|mem_output_weights"]))
    return np.array(given)


ARRAYS = {
    "ntm-lasagne": lasagne_arrays, "vlgiitr": vlgiitr_arrays, "carpedm20": carpedm20_arrays,
    "dnc-tensorflow": dnc_arrays, "pytorch-ntm": pytorch_ntm_arrays,
}  # fmt: skip

RUN = {
    "ntm-lasagne": lasagne_run, "vlgiitr": vlgiitr_run, "carpedm20": carpedm20_run,
    "dnc-tensorflow": dnc_run, "pytorch-ntm": pytorch_ntm_run,
}  # fmt: skip
