"""An exported model is served by a process that may not import torch, transformers or datasets."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from mtl_hf.inference.onnx.export import export_onnx
from mtl_hf.modeling.modeling_multitask import MultiTaskModel

# Refuses the packages, serves, and asks itself once it listens.
CODE = """
import json, os, re, signal, sys, threading, time, urllib.request

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "datasets", "accelerate", "evaluate", "sklearn"}:
            raise ImportError(f"{name} was imported")

sys.meta_path.insert(0, Refuse())
from mtl_hf.cli import main
from mtl_hf.inference.serve import server

def ask(port):
    body = json.dumps({"sentences": ["play jazz"], "embeddings": True}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", body, {"Content-Type": "application/json"})
    while True:
        try:
            print(urllib.request.urlopen(request, timeout=30).read().decode())
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)

listen = server.listen
def listening(host, port):
    found = listen(host, port)
    threading.Thread(target=ask, args=[found.getsockname()[1]], daemon=True).start()
    return found

server.listen = listening
main(["serve", sys.argv[1], "--port", "0"])
"""


def test_an_exported_model_is_served_without_torch(encoder_folder: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MultiTaskModel.from_encoder(encoder_folder, max_length=16)
    model.add_head("intent", type="sequence_classification", labels=["music", "weather"])
    model.save_pretrained(tmp_path / "model")
    export_onnx(tmp_path / "model", tmp_path / "exported")
    command = [sys.executable, "-c", CODE, str(tmp_path / "exported")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)["predictions"]
    (expected,) = model.predict(["play jazz"], embeddings=True)
    assert answer["tasks"]["intent"]["label"] == expected["intent"]["label"]
    torch.testing.assert_close(
        torch.tensor(answer["embedding"]), torch.tensor(expected["embedding"]), atol=1e-4, rtol=0
    )
