"""Exceptions to HTTP: every error of ours has one status, and its message goes out only where it is meant to."""

import json

import pytest

from app import errors
from app.api.problems import AccessError, MediaTypeError, NotReadyError, problem_response, public_message, status_of
from app.errors import AppError


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InputError("x"), 400),
        (AccessError("x"), 403),
        (errors.UnknownModelError("x"), 404),
        (errors.TooLargeError("x"), 413),
        (MediaTypeError("x"), 415),
        (errors.OverloadedError("x", 1), 429),
        (errors.CancelledError("x"), 499),
        (errors.DrainingError("x", 1), 503),
        (NotReadyError("x", 1), 503),
        (errors.ArtifactError("x"), 503),
        (errors.DeviceError("x"), 503),
        (errors.DeadlineError("x"), 504),
        (errors.TrainingError("x"), 500),
        (AppError("x"), 500),
    ],
)
def test_every_error_has_its_status(error: AppError, status: int) -> None:
    assert status_of(error) == problem_response(error).status_code == status
    assert set(json.loads(bytes(problem_response(error).body))) == {"error"}


def test_retry_after_is_whole_seconds_and_at_least_one() -> None:
    found = [problem_response(errors.OverloadedError("x", s)).headers["retry-after"] for s in (0.0, 0.2, 1.0, 2.1)]
    assert found == ["1", "1", "1", "3"]


def test_what_is_not_the_clients_business_is_not_told() -> None:
    error = AppError("canary")
    assert "canary" not in public_message(error) + bytes(problem_response(error).body).decode()
