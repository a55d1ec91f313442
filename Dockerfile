# Targets: `serve` (the default; ONNX Runtime, no PyTorch) and `train`.
# `--build-arg ORT_EXTRA=gpu` takes the CUDA runtime from its wheels, on the same base image.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG ORT_EXTRA=cpu
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements-${ORT_EXTRA}.lock requirements.lock
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY app app
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps .

FROM build AS build-train
# PyTorch's builds differ by machine, so training is not locked; what is installed already stays.
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install '.[train]'

# What runs needs no installer.
FROM build AS build-serve
RUN pip uninstall --yes setuptools pip

FROM ${PYTHON_IMAGE} AS runtime
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MALLOC_ARENA_MAX=2 \
    ORT_DISABLE_TELEMETRY=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN groupadd --gid 10001 seq2serve \
 && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin seq2serve
ENTRYPOINT ["seq2serve"]

FROM runtime AS train
COPY --from=build-train /opt/venv /opt/venv
WORKDIR /work
USER 10001
CMD ["--help"]

FROM runtime AS serve
COPY --from=build-serve /opt/venv /opt/venv
ENV SEQ2SERVE_HOST=0.0.0.0 \
    SEQ2SERVE_PORT=8000 \
    SEQ2SERVE_MODEL_STORE=/model_store
WORKDIR /srv
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["python", "-c", "import http.client, os; connection = http.client.HTTPConnection('127.0.0.1', int(os.environ['SEQ2SERVE_PORT']), timeout=4); connection.request('GET', '/health/ready'); raise SystemExit(connection.getresponse().status != 200)"]
CMD ["serve"]
