"""What is measured while a model works: the metrics of one model, their labels resolved once."""

from app import telemetry
from app.serving.generation import Ending, Generation


class ModelMetrics:
    """Counted and observed by the threads of one model's worker."""

    def __init__(self, task: str, model: str) -> None:
        self.waiting = telemetry.QUEUE_REQUESTS.labels(task, model)
        self.running = telemetry.REQUESTS_IN_PROGRESS.labels(task, model)
        self.queued = telemetry.QUEUE_DURATION_SECONDS.labels(task, model)
        self.first_token = telemetry.TIME_TO_FIRST_TOKEN_SECONDS.labels(model)
        self.generated = telemetry.TOKENS_TOTAL.labels(model, "generated")
        self._source = telemetry.TOKENS_TOTAL.labels(model, "source")
        self._padded = telemetry.TOKENS_TOTAL.labels(model, "padded")
        self._encode_s = telemetry.STAGE_DURATION_SECONDS.labels(model, "encode")
        self._decode_s = telemetry.STAGE_DURATION_SECONDS.labels(model, "decode")
        self._encode_size = telemetry.BATCH_SIZE.labels(model, "encode")
        self._step_size = telemetry.BATCH_SIZE.labels(model, "step")
        self._encode_tokens = telemetry.BATCH_TOKENS.labels(model, "encode")
        self._padding = telemetry.PADDING_RATIO.labels(model, "encode")
        endings: tuple[Ending, ...] = ("stop", "length", "error", "cancelled", "deadline")
        self._endings = {ending: telemetry.REQUESTS_FINISHED_TOTAL.labels(model, ending) for ending in endings}

    def encoded(self, lengths: list[int], duration_s: float) -> None:
        real, padded = sum(lengths), len(lengths) * max(lengths)
        self._encode_s.observe(duration_s)
        self._encode_size.observe(len(lengths))
        self._encode_tokens.observe(real)
        self._padding.observe(1 - real / max(padded, 1))
        self._source.inc(real)
        self._padded.inc(padded - real)

    def stepped(self, num_rows: int, duration_s: float) -> None:
        self._decode_s.observe(duration_s)
        self._step_size.observe(num_rows)

    def count(self, generation: Generation) -> None:
        if generation.ending is not None:
            self._endings[generation.ending].inc()
