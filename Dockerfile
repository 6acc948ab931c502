# The image of Percept: `docker build .` for the CPU, `docker build --target cuda .` with the CUDA libraries.
# Nothing is compiled from source. deploy/requirements pins what pip installs by version and hash (`make lock`), for
# Python 3.11 of Debian bookworm.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS python
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/*


# pip has an environment of its own, which is not copied into the image.
FROM python AS build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3-venv \
    && python3 -m venv /pip \
    && python3 -m venv --without-pip /opt/percept
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY deploy/install.sh /


FROM build AS cuda-libraries
COPY deploy/requirements/cuda.txt /
RUN sh /install.sh /cuda.txt


FROM build AS cpu-libraries
COPY deploy/requirements/cpu.txt /
RUN sh /install.sh /cpu.txt


# Percept's own files go into a separate layer, so that a change of the source keeps the large layer of libraries.
FROM build AS percept
COPY deploy/requirements/build.txt /
RUN /pip/bin/pip install --require-hashes --only-binary=:all: --requirement /build.txt
COPY pyproject.toml README.md LICENSE /source/
COPY models /source/models
COPY service /source/service
COPY deploy/health.py /tree/opt/percept/
RUN /pip/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel /source \
    && /pip/bin/pip --python /opt/percept/bin/python install --no-deps --no-compile --root /tree /wheel/*.whl \
    && python3 -m compileall -q --invalidation-mode unchecked-hash -s /tree -p / /tree
# /models has links to the built-in bundles, until another folder is mounted over it.
RUN mkdir /tree/models \
    && for bundle in /tree/opt/percept/lib/python3*/site-packages/percept/repository/*; do \
        ln -s "${bundle#/tree}" /tree/models/; \
    done


FROM python AS service
ENV PATH=/opt/percept/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PERCEPT_HOST=0.0.0.0 \
    PERCEPT_PORT=8000 \
    PERCEPT_MODELS=/models
WORKDIR /models
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# The check asks for readiness: Compose waits for it, and only Swarm restarts by it. Kubernetes has its own probes.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["python", "-IS", "/opt/percept/health.py"]
ENTRYPOINT ["percept"]
CMD ["serve"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Percept" \
      org.opencontainers.image.description="Serves convolutional networks over REST and shows what they saw." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"


FROM service AS cuda
COPY --from=cuda-libraries /opt/percept /opt/percept
COPY --from=percept /tree /


FROM service AS cpu
COPY --from=cpu-libraries /opt/percept /opt/percept
COPY --from=percept /tree /
