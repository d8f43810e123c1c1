# `mtl-hf serve` in a container: `--target torch` (default) serves any saved model, `--target onnx` a folder of `mtl-hf export`,
# without torch. The model is mounted at /model, or baked in with `FROM mtl_hf` and `COPY --chown=app FOLDER /model`.
#   docker build -t mtl_hf .                                    docker run -p 8000:8000 -v ./outputs/snips:/model mtl_hf
#   docker build -t mtl_hf:onnx --target onnx .                 docker run -p 8000:8000 -v ./snips-onnx:/model:ro mtl_hf:onnx
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 -t mtl_hf:cuda .
ARG BASE=python:3.11-slim

FROM ${BASE} AS base
RUN python3 -m venv /opt/venv && useradd --create-home --uid 1000 app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 HF_HOME=/home/app/.cache/huggingface
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY mtl_hf mtl_hf
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
  CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]

FROM base AS onnx
# What serving an exported model imports; the package itself comes without its dependencies, of which torch is one.
RUN pip install --no-cache-dir --constraint constraints.txt onnxruntime tokenizers numpy tqdm PyYAML \
      fastapi uvicorn httptools uvloop prometheus-client \
    && pip install --no-cache-dir --no-deps .
USER 1000
WORKDIR /home/app
CMD ["mtl-hf", "serve", "/model", "--host", "0.0.0.0"]

FROM base AS torch
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --constraint constraints.txt --index-url ${TORCH_INDEX} torch \
    && pip install --no-cache-dir --constraint constraints.txt '.[serve,onnx]'
USER 1000
WORKDIR /home/app
CMD ["mtl-hf", "serve", "/model", "--host", "0.0.0.0"]
