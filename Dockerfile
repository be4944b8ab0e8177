# Skyring as an image. `docker run skyring` is `skyring run`: port 3000, timers in the volume /data.
#
#   docker build -t skyring .
#   docker run -p 3000:3000 -v skyring:/data skyring run
#
# Any base image with Python 3.11 or later as python3, and its venv module, will do. Behind a mirror:
#   docker build --build-arg BASE_IMAGE=… --build-arg PIP_INDEX_URL=… -t skyring .

ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
# Transports beside webhooks; "" for none.
ARG TRANSPORTS="tcp zmq nats redis amqp"
RUN python3 -m venv /build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY skyring skyring
COPY transports transports
# The environment that is shipped has no pip of its own.
RUN set -eu; \
    packages='.[nkeys]'; \
    for name in ${TRANSPORTS}; do packages="$packages ./transports/$name"; done; \
    /build/bin/pip wheel --no-cache-dir --wheel-dir /wheels $packages; \
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
