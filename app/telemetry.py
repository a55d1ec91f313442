"""Every Prometheus metric: its name, unit, labels and buckets. Labels come from closed sets, never from user input.

Label values: `task` is a manifest's task; `model` a loaded artifact's name; `stage` is tokenize, encode, decode or
detokenize; `phase` is encode or step; `kind` is source, generated or padded; `reason` of a finished generation is
stop, length, cancelled, deadline, rejected or error; `reason` of a rejection is queue_full, deadline, too_large,
rate_limit or draining; `route` is a route's template; `state` is a catalog state; `result` is ok or failed.
"""

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped

PREFIX = "seq2serve_"
REQUEST_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0)
STAGE_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LOAD_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
ROW_BUCKETS = tuple(2**power for power in range(11))
TOKEN_BUCKETS = tuple(2**power for power in range(17))
RATIO_BUCKETS = tuple(tenth / 10 for tenth in range(11))

HTTP_REQUESTS_TOTAL = Counter(
    f"{PREFIX}http_requests_total", "HTTP requests answered, by status code.", ("route", "method", "code")
)
HTTP_REQUEST_DURATION_SECONDS = Histogram(
    f"{PREFIX}http_request_duration_seconds",
    "From the first byte of a request's head to the last of its answer.",
    ("route", "method"),
    buckets=REQUEST_BUCKETS_S,
)
REQUESTS_IN_PROGRESS = Gauge(
    f"{PREFIX}requests_in_progress", "Generations that have rows in the running batch.", ("task", "model")
)
QUEUE_REQUESTS = Gauge(f"{PREFIX}queue_requests", "Generations that wait for rows.", ("task", "model"))
QUEUE_DURATION_SECONDS = Histogram(
    f"{PREFIX}queue_duration_seconds",
    "Time a generation waited before it joined the running batch.",
    ("task", "model"),
    buckets=REQUEST_BUCKETS_S,
)
STAGE_DURATION_SECONDS = Histogram(
    f"{PREFIX}stage_duration_seconds",
    "Time of one stage: tokenize and detokenize a request, encode a batch, decode a step.",
    ("model", "stage"),
    buckets=STAGE_BUCKETS_S,
)
TIME_TO_FIRST_TOKEN_SECONDS = Histogram(
    f"{PREFIX}time_to_first_token_seconds",
    "From submission of a generation to its first token.",
    ("model",),
    buckets=REQUEST_BUCKETS_S,
)
BATCH_SIZE = Histogram(f"{PREFIX}batch_size", "Rows of a batch.", ("model", "phase"), buckets=ROW_BUCKETS)
BATCH_TOKENS = Histogram(f"{PREFIX}batch_tokens", "Real tokens of a batch.", ("model", "phase"), buckets=TOKEN_BUCKETS)
PADDING_RATIO = Histogram(
    f"{PREFIX}padding_ratio",
    "Share of a batch's positions that is padding.",
    ("model", "phase"),
    buckets=RATIO_BUCKETS,
)
AUDIO_SECONDS_TOTAL = Counter(
    f"{PREFIX}audio_seconds_total", "Seconds of recordings that were transcribed.", ("model",)
)
AUDIO_READ_DURATION_SECONDS = Histogram(
    f"{PREFIX}audio_read_duration_seconds",
    "Time to decode and resample one recording.",
    buckets=STAGE_BUCKETS_S,
)
TOKENS_TOTAL = Counter(f"{PREFIX}tokens_total", "Tokens that went through a model.", ("model", "kind"))
REQUESTS_FINISHED_TOTAL = Counter(
    f"{PREFIX}requests_finished_total", "Generations that ended, by how they ended.", ("model", "reason")
)
REJECTED_TOTAL = Counter(f"{PREFIX}rejected_total", "Requests refused before any work was done.", ("reason",))
MODEL_INFO = Gauge(
    f"{PREFIX}model_info",
    "1 for every loaded model: the provider it really runs on, its precision and the start of its sha256.",
    ("model", "version", "provider", "dtype", "sha256_12"),
)
MODEL_STATE = Gauge(
    f"{PREFIX}model_state", "1 for the state that a model version is in.", ("model", "version", "state")
)
MODEL_LOAD_SECONDS = Histogram(
    f"{PREFIX}model_load_seconds",
    "Time to check, load and warm up a model version.",
    ("model", "result"),
    buckets=LOAD_BUCKETS_S,
)
