"""Reading config.pbtxt: nothing that it says is passed over."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntm_serve.errors import ModelRejected
from ntm_serve.inference.model_config_pb2 import ModelConfig
from ntm_serve.triton.config import read_config
from ntm_serve.triton.meaning import IGNORED, REFUSED, expect_servable, ignored

PATH = Path("m/config.pbtxt")

# Every field that our part of the schema has: each is understood, or is in one of the tables.
UNDERSTOOD = (
    "name", "platform", "backend", "version_policy", "max_batch_size", "default_model_filename", "input.name",
    "input.data_type", "input.dims", "input.is_shape_tensor", "input.allow_ragged_batch", "input.optional",
    "output.name", "output.data_type", "output.dims", "output.is_shape_tensor", "sequence_batching.control_input",
    "sequence_batching.state.input_name", "sequence_batching.state.output_name", "sequence_batching.state.data_type",
    "sequence_batching.state.dims", "input.reshape", "output.reshape",
    "sequence_batching.state.initial_state", "sequence_batching.iterative_sequence",
)  # fmt: skip


def read(text):
    return read_config(text, PATH)


def test_every_field_is_named_however_it_is_written():
    config = read(
        """
        # a comment with { and name:
        name: "a { b: c }"  max_batch_size:8,
        input [ { name: 'x' dims: [ 1, -2 ] }, { format: FORMAT_NHWC } ];
        sequence_batching < oldest { max_candidate_sequences: 4 } state: [{ initial_state { zero_data: true } }] >
        parameters { key: "k" value: { string_value: "v" } }
        """
    )
    assert config.fields == (
        "name", "max_batch_size", "input", "input.name", "input.dims", "input.format", "sequence_batching",
        "sequence_batching.oldest", "sequence_batching.oldest.max_candidate_sequences", "sequence_batching.state",
        "sequence_batching.state.initial_state", "sequence_batching.state.initial_state.zero_data", "parameters",
        "parameters.key", "parameters.value", "parameters.value.string_value",
    )  # fmt: skip
    assert config.unknown == ()
    assert [one.name for one in config.model.input] == ["x", ""]


def test_unknown_fields_are_named_once_and_from_the_outermost():
    config = read(
        """
        optimization { graph { level: 1 } cuda { graphs: true } }
        instance_group [ { gpus: [ 0 ] }, { gpus: [ 1 ] } ]
        input { shiny: "x { y: z }" }
        """
    )
    assert config.unknown == ("optimization", "instance_group.gpus", "input.shiny")


@pytest.mark.parametrize(
    "text", ["max_batch_size: {", "name: x", "input {", "}", "input { dims: [1, }", 'name: "', "\0"]
)
def test_a_broken_text_is_refused_with_the_place(text):
    with pytest.raises(ModelRejected, match=r"m/config\.pbtxt: expected protobuf's text format, got"):
        read(text)


def test_a_text_that_nests_without_an_end_is_refused():
    with pytest.raises(ModelRejected, match="expected protobuf's text format"):
        read("a { " * 5000 + "}" * 5000)


@given(st.text(alphabet="abinputdms_ze:{}[]<>,;\"'0-9.# \n", max_size=60))
def test_whatever_the_text_is_it_is_read_or_refused(text):
    try:
        config = read(text)
    except ModelRejected:
        return
    assert all(unknown in config.fields for unknown in config.unknown)


def test_ignored_fields_have_their_reason_and_others_of_theirs_are_not_named():
    config = read("optimization { graph { level: 1 } } instance_group { gpus: 0 count: 2 } max_batch_size: 4")
    assert [line.partition(":")[0] for line in ignored(config)] == ["optimization", "instance_group", "max_batch_size"]
    expect_servable(config, PATH)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('backend: "python"', r"backend 'python': expected an ONNX model"),
        (
            'platform: "ensemble" ensemble_scheduling { step { } }',
            r"platform 'ensemble'.*; ensemble_scheduling: an ens",
        ),
        ("batch_input { kind: 1 }", "batch_input: no tensors are made"),
        ('model_operations { op_library_filename: "a.so" }', "model_operations: no operators are loaded"),
        ("sequence_bathing { }", "sequence_bathing: is not known here"),
        ("sequence_batching { state { shiny: 1 } }", r"sequence_batching\.state\.shiny: is not known here"),
        ("sequence_batching { iterative_sequence: true }", "iterative_sequence: a request is one step"),
        ("model_transaction_policy { decoupled: true }", "decoupled: a request has one reply"),
        ('input { name: "x" reshape { shape: [ ] } }', "tensor x: reshape: a tensor has one shape"),
        ('output { name: "y" reshape { shape: [ 1 ] } }', "tensor y: reshape: a tensor has one shape"),
        ('input { name: "x" allow_ragged_batch: true }', "input x: allow_ragged_batch"),
        ('input { name: "x" is_shape_tensor: true }', "input x: is_shape_tensor"),
        ('input { name: "x" optional: true }', "input x: optional"),
    ],
)
def test_what_changes_what_is_computed_is_refused(text, reason):
    with pytest.raises(ModelRejected, match=reason):
        expect_servable(read(text), PATH)


def test_every_field_of_the_schema_is_understood_or_ignored_or_refused():
    def fields(kind, prefix=()):
        for one in kind.fields:
            place = ".".join((*prefix, one.name))
            if place in IGNORED or place in REFUSED or place in UNDERSTOOD:
                continue
            assert one.message_type, f"{place}: in none of the tables"
            yield from fields(one.message_type, (*prefix, one.name))

    assert list(fields(ModelConfig.DESCRIPTOR)) == []
