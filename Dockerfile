# The serving part alone: no torch, no training code.
#
#   docker build --tag limelight .                              runs on any CPU
#   docker build --tag limelight:gpu --build-arg DEVICE=gpu .   wants an NVIDIA GPU: docker run --gpus all
#
# Hardened, it needs nothing but a writable /tmp:
#
#   docker run --publish 3000:3000 --read-only --tmpfs /tmp --cap-drop ALL \
#       --security-opt no-new-privileges limelight
#
# Behind a package mirror, hand the build its settings as secrets, which no layer keeps:
# `--secret id=pip.conf,src=...`, and `--secret id=ca.crt,src=...` for `cert = /run/secrets/ca.crt`.
#
# No `# syntax=` line: BuildKit's own front end knows all that is used, and building fetches less.
ARG DEVICE=cpu
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS base-cpu
ENV LIMELIGHT_DEVICE=cpu

# CUDA and cuDNN come as Python packages and the driver from the host, so the base is the same.
# The device is demanded: without it the container says that it is not ready and why, where `auto`
# would serve at a CPU's pace from a machine that is paid for its GPU.
FROM ${PYTHON_IMAGE} AS base-gpu
ENV LIMELIGHT_DEVICE=cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM base-${DEVICE} AS build
ARG DEVICE
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
COPY pyproject.toml constraints.txt ./
# The editable install only notes where the package lies, so a stand-in is enough, and a change of
# code, models or README leaves this layer alone. The build's pip installs into the environment,
# which needs none of its own. On a CPU the CUDA and TensorRT providers are 285 MB of dead weight.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca.crt \
    mkdir limelight service && touch limelight/__init__.py service/__init__.py README.md LICENSE \
    && python -m venv --without-pip /opt/venv \
    && if [ "$DEVICE" = gpu ]; then extra='[cuda,grpc]'; else extra='[grpc]'; fi \
    && python -m pip --python /opt/venv/bin/python install --constraint constraints.txt --editable ".$extra" \
    && if [ "$DEVICE" = cpu ]; then \
        rm --force /opt/venv/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime_providers_cuda.so \
            /opt/venv/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime_providers_tensorrt.so; \
    fi
COPY . .
# Nothing can be written where the code lies when it runs, so compile it now.
RUN python -m compileall -q limelight service

FROM base-${DEVICE}
# BentoML reports usage to its makers unless this is exactly `True`, and writes its counters to its
# home folder. There is no user entry to look up a home for: HOME says it.
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
# Owns nothing: all of the above stays root's.
USER 10001:10001
EXPOSE 3000
# http.client, because urllib would obey a proxy that the environment names.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['BENTOML_PORT']), timeout=4); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]
# The exec form makes the server process 1, which SIGTERM reaches.
CMD ["bentoml", "serve"]

# Last, because they differ at every build.
ARG PYTHON_IMAGE
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="limelight" \
      org.opencontainers.image.description="Image classifiers that show what they looked at" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
