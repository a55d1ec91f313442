"""The exceptions that both halves share. They know nothing of HTTP: `app/api/problems.py` gives them status codes."""


class AppError(Exception):
    """Root of all errors that a user can cause or mend; the message says what, where and the way out."""


class InputError(AppError):
    """A request, a text or an argument is wrong; sending it again unchanged will fail again."""


class TooLargeError(InputError):
    """An input is over a limit of size or count."""


class UnknownModelError(AppError):
    """No such model, version or alias in the store, or it is not loaded."""


class OverloadedError(AppError):
    """The queue is full; worth sending again after `retry_after_s`."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DrainingError(OverloadedError):
    """The service is shutting down and takes no new work."""


class DeadlineError(AppError):
    """The time that the request had ran out before its answer was ready."""


class CancelledError(AppError):
    """The client went away, or the work was called off."""


class ArtifactError(AppError):
    """A published model is damaged, incomplete or of another format; names the file, what was found and expected."""


class DeviceError(AppError):
    """The requested device or provider can not be had."""


class RecipeError(AppError):
    """A recipe is wrong; names the key."""


class CorpusError(AppError):
    """Training or evaluation data is missing, empty or malformed; names the file and the line."""


class TrainingError(AppError):
    """Training can not go on: a loss that is not finite, divergence, an unreadable checkpoint."""


class CheckpointError(AppError):
    """A public checkpoint is damaged, incomplete, or of a kind that is not read; names the file or the tensors."""


class ExportError(AppError):
    """A model could not be exported, or the exported graphs do not agree with PyTorch."""
