"""The checker of the chaos scenarios finds what it is there to find, and nothing where there is nothing."""

import numpy as np
import pytest

from benchmarks.chaos.checker import Answer, Verdict, check
from benchmarks.chaos.reference import Reference

STEPS = 40
ZEROS = Verdict(steps=STEPS)


@pytest.fixture(scope="module")
def reference(zoo):
    """What a session of a trained model answers."""
    return Reference(zoo / "copy-ff" / "1", seed=1).outputs([3], STEPS)[3]


@pytest.fixture
def answers(reference):
    """What its client saw, undisturbed: messages of several steps."""
    return [Answer(first, reference[first : first + 5].copy()) for first in range(0, STEPS, 5)]


def test_an_undisturbed_run_has_no_fault(answers, reference):
    verdict = check(answers, reference, stands_at=STEPS)

    assert verdict == ZEROS
    assert verdict.holds


def test_every_step_of_the_reference_has_bits_of_its_own(reference):
    assert len({row.tobytes() for row in reference}) == STEPS


def test_no_answer_at_all_is_no_fault_of_a_session_that_made_no_step(reference):
    assert check([], reference, stands_at=0).holds


@pytest.mark.parametrize("message", range(8))
def test_a_message_that_was_not_answered_is_found(answers, reference, message):
    del answers[message]

    assert check(answers, reference, stands_at=STEPS).lost == 5


def test_a_message_that_was_not_answered_before_another_is_found_without_knowing_where_the_session_stands(
    answers, reference
):  # fmt: skip
    del answers[3]

    assert check(answers, reference).lost == 5


def test_a_step_that_is_missing_in_a_message_is_found(answers, reference):
    answers[2] = Answer(10, answers[2].outputs[:4])

    assert check(answers, reference, stands_at=STEPS).lost == 1


def test_a_session_that_stands_before_what_it_answered_is_found(answers, reference):
    assert check(answers, reference, stands_at=STEPS - 5).lost == 5


def test_a_message_that_was_answered_twice_is_found(answers, reference):
    answers.insert(4, answers[3])

    assert check(answers, reference, stands_at=STEPS).doubled == 5


def test_steps_that_were_answered_to_an_earlier_client_too_are_found(answers, reference):
    assert check(answers, reference, start=2, stands_at=STEPS).doubled == 2


def test_messages_that_came_in_another_order_are_found(answers, reference):
    answers[3], answers[4] = answers[4], answers[3]

    assert check(answers, reference, stands_at=STEPS) == Verdict(steps=STEPS, swapped=5)


def test_two_steps_with_each_others_bits_are_found(answers, reference):
    answers[1].outputs[[2, 3]] = answers[1].outputs[[3, 2]]

    assert check(answers, reference, stands_at=STEPS) == Verdict(steps=STEPS, swapped=2)


@pytest.mark.parametrize("bit", [0, 7, 100, 255])
def test_a_single_bit_is_found(answers, reference, bit):
    row = answers[6].outputs[1].view(np.uint8)
    row[bit // 8] ^= 1 << bit % 8

    assert check(answers, reference, stands_at=STEPS) == Verdict(steps=STEPS, wrong=1)


def test_a_step_beyond_the_reference_is_wrong(answers, reference):
    assert check(answers, reference[:-1], stands_at=STEPS).wrong == 1


@pytest.mark.parametrize("made_twice", [True, False], ids=["made twice", "left out"])
def test_a_step_that_the_server_itself_made_twice_or_left_out_is_found(zoo, answers, reference, made_twice):
    """Its number is right, and the memory is another from there on."""
    source = Reference(zoo / "copy-ff" / "1", seed=1)
    inputs = source.inputs(3, 0, STEPS)
    inputs = np.insert(inputs, 20, inputs[20], axis=0)[:STEPS] if made_twice else np.delete(inputs, 20, axis=0)
    state = [np.array([array]) for array in source.engine.initial_state]
    made = []
    for x in inputs:
        [y], state = source.engine.run([x[None]], state)
        made.append(y[0])

    verdict = check([Answer(0, np.stack(made))], reference)

    assert verdict.wrong + verdict.swapped >= len(inputs) - 21


def test_verdicts_add_up():
    assert Verdict(1, 2, 3, 4, 5) + Verdict(10, 20, 30, 40, 50) == Verdict(11, 22, 33, 44, 55)
