"""What a form changes of the step, each choice by itself, against its formula or the rule that it is named after."""

import numpy as np
import pytest
import torch

from models import literal
from ntm_models.build import build_step
from ntm_models.ntm import NTM, Activations, Form, NTMOptions, addressing
from ntm_models.recipe import parse_recipe

B, H, N, M = 3, 2, 7, 5


@pytest.fixture
def random():
    return np.random.default_rng(20141020)


def ntm_of(form: Form, **sizes) -> NTM:
    torch.manual_seed(7)
    sizes = {"inputs": 3, "outputs": 2, "controller": "lstm", "controller_size": 6, "slots": 8, "width": 4, **sizes}
    ntm = NTM(NTMOptions(form=form, **sizes))
    for parameter in ntm.parameters():  # Away from zero, so that no part of the step can hide.
        parameter.data = parameter.data * 2 if parameter.data.any() else torch.rand_like(parameter)
    return ntm


def stepped(ntm: NTM, x: torch.Tensor | None = None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    state = {name: value[None].expand(1, *value.shape) for name, value in ntm.initial_state().items()}
    with torch.no_grad():
        for _ in range(3):
            outputs, state = ntm({"x": torch.ones(1, 3) if x is None else x}, state)
    return outputs["y"], state


def test_a_zero_padded_shift_lets_a_focus_leave_at_the_ends(random):
    weighting, shifts = random.dirichlet(np.ones(N), (B, H)), random.dirichlet(np.ones(3), (B, H))
    index = addressing.shift_index(N, (-1, 0, 1), circular=False)
    given = addressing.shift(addressing.beyond(torch.from_numpy(weighting)), torch.from_numpy(shifts), index).numpy()
    padded = np.pad(weighting, ((0, 0), (0, 0), (1, 1)))
    # w~[i] = s[-1] w[i+1] + s[0] w[i] + s[1] w[i-1].
    s = shifts[..., np.newaxis]
    wanted = s[:, :, 0] * padded[..., 2:] + s[:, :, 1] * padded[..., 1:-1] + s[:, :, 2] * padded[..., :-2]
    np.testing.assert_allclose(given, wanted, rtol=1e-6)


def test_a_cosine_with_its_epsilon_under_the_root_takes_small_slots_for_nothing(random):
    keys = torch.from_numpy(random.normal(size=(B, H, M)))
    memory = torch.from_numpy(random.normal(size=(B, N, M)))
    large, small = (addressing.cosine_similarity_root(keys, size * memory) for size in (1, 1e-6))
    np.testing.assert_allclose(large, addressing.cosine_similarity(keys, memory), atol=1e-4)
    assert small.abs().max() < 1e-2


def test_sharpening_as_it_stands_is_equation_9_and_fades_where_all_is_small(random):
    weighting, exponents = random.dirichlet(np.ones(N), (B, H)), random.uniform(1, 10, (B, H, 1))
    given = addressing.sharpen_power(torch.from_numpy(weighting), torch.from_numpy(exponents), 1e-16)
    wanted = [[literal.sharpen(weighting[b, h], exponents[b, h, 0]) for h in range(H)] for b in range(B)]
    np.testing.assert_allclose(given, wanted, rtol=1e-5)
    spread = addressing.sharpen_power(torch.full((1, 1, 128), 1 / 128), torch.full((1, 1, 1), 20.0), 1e-16)
    assert spread.sum() < 1e-6


def test_the_relu_set_is_its_formulas():
    ntm = ntm_of(Form(activations=Activations(key="relu", strength="relu", shift="softmax-relu", exponent="1+relu")))
    z = torch.tensor([-1.0, 0.5, 2.0])
    activated = {part: function(z).tolist() for part, function in ntm.activations.items()}
    assert activated["key"] == activated["strength"] == [0, 0.5, 2]
    assert activated["exponent"] == [1, 1.5, 3]
    np.testing.assert_allclose(activated["shift"], np.exp([0, 0.5, 2]) / np.exp([0, 0.5, 2]).sum(), rtol=1e-6)
    np.testing.assert_allclose(activated["erase"], 1 / (1 + np.exp([1, -0.5, -2])), rtol=1e-6)


def test_the_hard_sigmoid_has_a_slope_of_a_fifth():
    ntm = ntm_of(Form(activations=Activations(gate="hard-sigmoid")))
    np.testing.assert_allclose(ntm.activations["gate"](torch.tensor([-3.0, -1, 0, 1, 3])), [0, 0.3, 0.5, 0.7, 1])


def test_where_nothing_is_learned_of_erasing_a_write_clears_what_it_attends_to():
    form = Form(activations=Activations(erase="one"))
    ntm = ntm_of(form)
    assert ntm.heads.out_features == ntm_of(Form()).heads.out_features - 4
    memory, focus = torch.ones(1, 8, 4), torch.zeros(1, 1, 8)
    focus[0, 0, 2] = 1
    erase = ntm.activations["erase"](torch.rand(1, 1, 4))
    assert not addressing.write(memory, focus, erase, torch.zeros(1, 1, 4))[0, 2].any()


def test_reads_after_the_write_see_what_was_written():
    _, before = stepped(ntm_of(Form()))
    _, after = stepped(ntm_of(Form(reads="after-write")))
    torch.testing.assert_close(after["read_vector"], after["read_weighting"] @ after["memory"])
    assert not torch.allclose(before["read_vector"], before["read_weighting"] @ before["memory"])


def test_an_output_of_the_controller_alone_does_not_know_what_was_read():
    ntm = ntm_of(Form(output_sees="controller"))
    y, state = stepped(ntm)
    torch.testing.assert_close(y, torch.sigmoid(ntm.output(state["controller_h"])))
    assert ntm.output.in_features == 6


def test_heads_that_see_the_cell_are_projected_from_it():
    given, alike = stepped(ntm_of(Form(heads_see="cell"))), stepped(ntm_of(Form()))
    assert not torch.equal(given[1]["write_weighting"], alike[1]["write_weighting"])


def test_a_given_first_state_is_what_the_weights_say():
    ntm = ntm_of(Form(start="given"))
    first = ntm.initial_state()
    wanted = {
        "memory": (8, 4), "read_weighting": (1, 8), "write_weighting": (1, 8), "read_vector": (1, 4),
        "controller_h": (6,), "controller_c": (6,),
    }  # fmt: skip
    assert {name: tuple(value.shape) for name, value in first.items()} == wanted
    assert list(first) == list(wanted)
    for name, value in first.items():
        assert torch.equal(value, ntm.state_dict()[f"first_state.{name}"])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Form(shift="linear"), "shift: expected one of circular, zero-padded, got 'linear'"),
        (lambda: Activations(gate="tanh"), "gate: expected one of sigmoid, hard-sigmoid, got 'tanh'"),
        (lambda: Form(similarity_epsilon=0), "similarity_epsilon: expected a number above 0, got 0"),
        (
            lambda: NTMOptions(inputs=1, outputs=1, form=Form(heads_see="cell")),
            "form.heads_see: cell: expected the controller lstm, got feed-forward",
        ),
    ],
)
def test_choices_that_do_not_exist_are_refused_by_their_field(made, message):
    with pytest.raises(ValueError, match=message):
        made()


def test_a_recipe_may_choose_a_form(entries):
    entries["model"]["form"] = {"reads": "after-write", "activations": {"key": "relu"}}
    step = build_step(parse_recipe(entries))
    assert step.options.form == Form(reads="after-write", activations=Activations(key="relu"))
