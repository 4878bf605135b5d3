import io

from rlvr_pipelines.local.results import print_evaluation, print_sweep
from rlvr_trainer.evaluation.outcome import compare


def samples(model: str, shots: int, num_correct: int) -> list[dict[str, object]]:
    return [
        {
            "model": model,
            "shots": shots,
            "id": f"test-{row}",
            "correct": row < num_correct,
            "format": row < 50,
            "flexible": row < num_correct + 1,
            "num_tokens": 10,
            "greedy": True,
        }
        for row in range(100)
    ]


EVALUATION = compare(
    [*samples("before", 0, 5), *samples("before", 2, 10)],
    [*samples("after", 0, 40), *samples("after", 2, 60)],
    trained_shots=2,
)


def test_the_evaluation_is_a_row_for_each_number_of_shots_and_a_verdict() -> None:
    stream = io.StringIO()
    print_evaluation(EVALUATION, stream)

    rows = [line.split() for line in stream.getvalue().splitlines() if "→" in line]
    assert [row[0] for row in rows] == ["0", "2"]
    assert "10.0 % (5.5–17.4)" in stream.getvalue()
    assert "60.0 % (50.2–69.1)" in stream.getvalue()
    assert "11.0 % → 61.0 %" in stream.getvalue()
    assert "< 0.001" in stream.getvalue()
    assert stream.getvalue().endswith(f"{EVALUATION['verdict']}\n")


def sweep(*evaluations: dict[str, object] | None) -> list[dict[str, object]]:
    return [
        {"field": "prompt.num_shots", "value": value, "evaluation": evaluation}
        for value, evaluation in zip("02", evaluations, strict=True)
    ]


def test_a_sweep_is_a_row_for_each_value() -> None:
    stream = io.StringIO()
    print_sweep(sweep(EVALUATION, EVALUATION), stream)

    assert "prompt.num_shots" in stream.getvalue()
    assert "no evaluation" not in stream.getvalue()
    assert stream.getvalue().count("60.0 % (50.2–69.1)") == 2


def test_a_value_whose_run_failed_has_a_row_too() -> None:
    stream = io.StringIO()
    print_sweep(sweep(None, EVALUATION), stream)

    rows = [line.split() for line in stream.getvalue().splitlines()]
    assert ["0", "(no", "evaluation)", *"–––––"] in rows
    assert stream.getvalue().count("60.0 % (50.2–69.1)") == 1
