"""The few-shot task, read back from its inputs alone."""

import numpy as np

from ntm_models.tasks.few_shot import NO_LABEL, FewShotLabels

TASK = FewShotLabels()


def episodes_of(length=4, sequences=50):
    return TASK.episodes(length=length, sequences=sequences, seed=3)


def test_a_label_is_that_of_the_example_before():
    episodes = episodes_of()
    label = episodes.inputs["label"]
    assert (label[:, 0] == NO_LABEL).all()
    assert np.array_equal(label[:, 1:], episodes.y.argmax(axis=2)[:, :-1])


def test_examples_of_a_class_are_near_to_each_other_and_classes_are_new_in_each_session():
    episodes = episodes_of()
    classes = episodes.y.argmax(axis=2)
    patterns = np.stack([np.sign(x[np.argmax(of == 0)]) for x, of in zip(episodes.x, classes, strict=True)])
    for x, of, pattern in zip(episodes.x, classes, patterns, strict=True):
        assert (np.abs(x[of == 0] - pattern) < 6 * TASK.noise).all()
    assert len({pattern.tobytes() for pattern in patterns}) > 45


def test_each_class_is_shown_as_often_as_the_length_says_and_scored_but_the_first_time():
    episodes = episodes_of()
    assert (episodes.y.sum(axis=1) == 4).all()
    for classes, scored in zip(episodes.y.argmax(axis=2).tolist(), episodes.scored.tolist(), strict=True):
        assert scored == [one in classes[:at] for at, one in enumerate(classes)]
