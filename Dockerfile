# The server, or any other command of Sonolora.
#
#   docker build -t sonolora .                                   with CUDA (PyTorch's usual build for Linux)
#   docker build -t sonolora --build-arg TORCH_INDEX=URL .       another build: for CPUs alone, the index that
#                                                                pytorch.org names for "CPU"
#   docker run --rm --gpus all -v sonolora:/data -p 127.0.0.1:8000:8000 sonolora
#   docker run --rm --gpus all -v sonolora:/data sonolora train t2a URL --out /data/run
#
# A CUDA image runs on a machine without a card, too; --gpus needs the NVIDIA container toolkit on the host.
FROM python:3.12-slim

ARG TORCH_INDEX=""
# Extras for several machines, such as EXTRAS=postgres,s3,ray
ARG EXTRAS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

WORKDIR /opt/sonolora
# PyTorch first: it is most of the image and changes least.
COPY constraints.txt ./
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN grep -v '^torch==' constraints.txt >/tmp/constraints.txt && pip install -c /tmp/constraints.txt ".${EXTRAS:+[$EXTRAS]}"

# Everything that is to outlast a container is below /data.
RUN useradd --create-home --uid 1000 sonolora && install -d -o sonolora -g sonolora /data
ENV SONOLORA_SERVER=/data/server SONOLORA_BASES=/data/bases.json SONOLORA_MODELS=/data/models \
    SONOLORA_CACHE=/data/cache HF_HOME=/data/huggingface
VOLUME /data
USER sonolora
WORKDIR /data
EXPOSE 8000

ENTRYPOINT ["sonolora"]
# In a container the host's side of the published port decides who can reach it. Make a key first:
#   docker run --rm -v sonolora:/data sonolora keys add NAME
CMD ["serve", "--host", "0.0.0.0"]
