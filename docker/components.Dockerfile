# The small image, without torch: launches and follows jobs, compares and reports.
# Build from the repository's root: docker build -f docker/components.Dockerfile .
ARG BASE_IMAGE=python:3.11-slim-bookworm

# uv installs the packages and is not in the image. For your own package index, pass pip.conf and uv.toml
# as build secrets, which layers do not contain.
FROM ${BASE_IMAGE} AS uv
COPY requirements/uv.txt /requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/uv \
    && /opt/uv/bin/pip install --no-cache-dir --require-hashes -r /requirements/uv.txt

FROM ${BASE_IMAGE} AS dependencies
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
COPY requirements/components.txt requirements/local.txt /requirements/
# packages without wheels are built with the locked setuptools and hatchling
RUN --mount=type=bind,from=uv,source=/opt/uv,target=/opt/uv \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    /opt/uv/bin/uv venv /opt/rlvr \
    && VIRTUAL_ENV=/opt/rlvr /opt/uv/bin/uv pip install --no-cache --compile-bytecode \
    --require-hashes -r /requirements/components.txt --build-constraints /requirements/local.txt

FROM dependencies
# the user of the trainer's image; 65532 is distroless's nonroot
RUN groupadd --gid 65532 rlvr && useradd --uid 65532 --gid 65532 --create-home rlvr
# /tmp is writable even if the root file system is read-only
ENV PATH=/opt/rlvr/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    RLVR_CACHE=/tmp/cache/rlvr \
    XDG_CACHE_HOME=/tmp/cache
RUN --mount=type=bind,from=uv,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,target=/src \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    VIRTUAL_ENV=/opt/rlvr /opt/uv/bin/uv pip install --no-cache --compile-bytecode \
    --no-deps --build-constraints /requirements/local.txt /src
USER 65532:65532
WORKDIR /home/rlvr
RUN python -m rlvr_trainer --version && python -c "import kfp, kubernetes, boto3"
ARG VERSION=0
LABEL org.opencontainers.image.title="rlvr-components" \
    org.opencontainers.image.description="Launches and follows jobs, compares and reports: rlvr without torch" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.licenses="Apache-2.0"
CMD ["python", "-m", "rlvr_trainer", "--help"]
