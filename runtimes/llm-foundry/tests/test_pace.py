"""Speed and remaining time."""

from finetune_llmfoundry.pace import Pace, occurrences


def warm(seconds=2.0, tokens=100, steps=11):
    pace = Pace()
    pace.step(60.0, tokens)
    for _ in range(steps - 1):
        pace.step(seconds, tokens)
    return pace


def test_there_is_no_estimate_before_ten_steps():
    pace = warm(steps=9)
    assert pace.remaining(50) is None
    pace.step(2.0, 100)
    assert pace.remaining(50) is not None


def test_the_first_step_does_not_count():
    assert warm().seconds_per_step() == 2.0
    assert warm().tokens_per_second() == 50.0


def test_evaluations_saves_and_the_export_are_in_the_estimate():
    pace = warm()
    pace.evaluation.add(10.0)
    pace.save.add(3.0)
    assert pace.remaining(20, evaluations=2, saves=2) == 20 * 2.0 + 2 * 10.0 + (2 + 1) * 3.0


def test_an_evaluation_that_was_never_timed_is_guessed_from_its_batches():
    pace = warm()
    pace.save.add(0.0)
    assert pace.remaining(0, evaluations=1, evaluation_batches=10) == 2.0 * 0.35 * 10


def test_no_total_means_no_estimate():
    assert warm().remaining(None) is None


def test_occurrences_count_what_is_to_come_and_the_end():
    assert occurrences(0, 60, 20) == 3
    assert occurrences(20, 60, 20) == 2
    assert occurrences(21, 60, 20) == 2
    assert occurrences(0, 50, 20) == 3
    assert occurrences(60, 60, 20) == 0
    assert occurrences(0, 60, None) == 0
