# Textmill's image: the command line, the Prefect server and the worker in one. docs/deploying.md tells what to do with
# it; it need not be built by hand: `docker compose up --build`.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

# Which build of the pinned torch: the one of pip's own index (on Linux that for CUDA), or that of another index, by its
# address. The package is always the version in constraints.txt, whose pin any of its builds satisfies.
ARG TORCH_INDEX=
# Extras of pyproject.toml beside the packages that everything needs, as pip writes them: [s3,dask]
ARG EXTRAS=

# torch.compile, which a training on a GPU uses, calls a compiler. Debian keeps one version of it in a release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# The user who owns /textmill/store and /home/textmill also owns the named volumes that are first mounted there.
RUN useradd --create-home --uid 1000 textmill \
    && install --directory --owner textmill --group textmill /textmill /textmill/store /home/textmill/.prefect
WORKDIR /textmill

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1

# Prefect's server copies its UI beside its code unless told otherwise, where its user must not write; and what is
# sent home by default is not sent, and what is advertised not shown.
ENV PREFECT_UI_STATIC_DIRECTORY=/tmp/prefect-ui \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT=false \
    DO_NOT_TRACK=1

# Packages before code, so that a changed line of code installs nothing again. torch comes first and alone, because its
# index holds other versions of what it needs; what that is comes from pip's own in the second step.
COPY constraints.txt pyproject.toml ./
RUN pip install --no-deps --constraint constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch \
    && python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > /tmp/requirements.txt \
    && pip install --constraint constraints.txt --requirement /tmp/requirements.txt \
    && rm /tmp/requirements.txt

# Here and not in site-packages: the deployments name this folder, and a run imports the code that lies in it.
COPY README.md LICENSE prefect.yaml ./
COPY configs configs
COPY textmill textmill
COPY tokenization tokenization
COPY scraping scraping
COPY modeling modeling
COPY experiments experiments
COPY flows flows
RUN pip install --constraint constraints.txt --editable ".${EXTRAS}" \
    && python -m compileall -q textmill tokenization scraping modeling experiments flows

# The kernels' machine code, for the processor that builds the image: on another kind a container compiles its own. The
# containers' user compiles, because he cannot write beside the code: it is kept in his cache folder.
USER 1000
RUN textmill compile
VOLUME /textmill/store
# No entrypoint: a Docker or Kubernetes worker starts the run with a command of its own.
CMD ["textmill", "--help"]
