# The service only: no torch, no training code.
#
#   docker build --tag limelight .                              runs on any CPU
#   docker build --tag limelight:gpu --build-arg DEVICE=gpu .   needs an NVIDIA GPU: docker run --gpus all
#
# With a read-only root, it needs a writable /tmp:
#
#   docker run --publish 3000:3000 --read-only --tmpfs /tmp --cap-drop ALL \
#       --security-opt no-new-privileges limelight
#
# Behind a package mirror, pass pip's settings as build secrets, which no layer keeps:
# `--secret id=pip.conf,src=...`, and `--secret id=ca.crt,src=...` for `cert = /run/secrets/ca.crt`.
#
# No `# syntax=` line: BuildKit's built-in front end is enough, and the build downloads less.
ARG DEVICE=cpu
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS base-cpu
ENV LIMELIGHT_DEVICE=cpu

# CUDA and cuDNN are Python packages and the driver comes from the host, so the base is the same.
# The GPU is required: without it the container is not ready and says why. `auto` would serve from
# the CPU of a machine that was paid for its GPU.
FROM ${PYTHON_IMAGE} AS base-gpu
ENV LIMELIGHT_DEVICE=cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM base-${DEVICE} AS build
ARG DEVICE
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
COPY pyproject.toml constraints.txt ./
# An editable install only records the path of the packages, so empty packages are enough here, and a
# change of code, models or README keeps this layer cached. The pip of the build stage installs into
# the environment, which needs no pip itself. On a CPU the CUDA and TensorRT providers are 285 MB of
# unused files.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca.crt \
    mkdir limelight service && touch limelight/__init__.py service/__init__.py README.md LICENSE \
    && python -m venv --without-pip /opt/venv \
    && if [ "$DEVICE" = gpu ]; then extra='[serve,cuda,grpc,sign,tracing]'; else extra='[serve,grpc,sign,tracing]'; fi \
    && python -m pip --python /opt/venv/bin/python install --constraint constraints.txt --editable ".$extra" \
    && if [ "$DEVICE" = cpu ]; then \
        rm --force /opt/venv/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime_providers_cuda.so \
            /opt/venv/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime_providers_tensorrt.so; \
    fi
COPY . .
# The folder of the code is not writable at run time, so compile the bytecode now.
RUN python -m compileall -q limelight service

FROM base-${DEVICE}
# BentoML reports usage to its makers unless BENTOML_DO_NOT_TRACK is exactly `True`. It makes folders
# in BENTOML_HOME. The user has no entry in /etc/passwd, so HOME is set here.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    BENTOML_DO_NOT_TRACK=True \
    BENTOML_HOME=/tmp/bentoml \
    BENTOML_HOST=0.0.0.0 \
    BENTOML_PORT=3000 \
    HOME=/tmp
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
WORKDIR /app
# An unprivileged user that owns no files: everything above belongs to root.
USER 10001:10001
EXPOSE 3000
# http.client, because urllib would use a proxy from the environment.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['BENTOML_PORT']), timeout=4); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]
# In the exec form the server is process 1, so it gets SIGTERM.
CMD ["bentoml", "serve"]

# Last, because they change with every build and would invalidate the cache.
ARG PYTHON_IMAGE
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="limelight" \
      org.opencontainers.image.description="Image classifiers that show what they looked at" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
