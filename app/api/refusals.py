"""Why a request is refused before any work is done: the errors that only HTTP has."""

from app.errors import AppError, InputError, OverloadedError


class AccessError(AppError):
    """The key is not one of ours."""


class MissingKeyError(InputError):
    """A key is required and none was given."""


class NotReadyError(OverloadedError):
    """No model is loaded, yet or at all."""


class MediaTypeError(InputError):
    """A body in a form that the service does not read."""


class ParameterError(InputError):
    """The parameter `name` is missing or wrong."""

    def __init__(self, name: str, complaint: str) -> None:
        super().__init__(f"Invalid request: {complaint}")
        self.name = name
