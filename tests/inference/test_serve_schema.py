"""Requests drawn from the server's own OpenAPI schema, with and without tokens: no 5xx, no undocumented answer."""

from typing import Any

import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from mtl_hf.inference.serve.access import Access
from mtl_hf.inference.serve.app import create_app
from mtl_hf.inference.serve.limits import Limits
from mtl_hf.inference.serve.models import Loaded, Models
from mtl_hf.inference.serve.served_model import ModelInMemory
from mtl_hf.inference.serve.training_routes import RunBusyError
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from tests.conftest import save_encoder

TOKEN, TRAINING_TOKEN = "token-of-clients", "token-of-the-operator"
HEADERS = {"Host": "localhost", "Authorization": f"Bearer {TRAINING_TOKEN}"}


class NoRuns:
    """Allows one config, and is always busy with it."""

    configs = ("quickstart",)

    def start(self, config: str) -> dict[str, Any]:
        raise RunBusyError("a run is running.")

    def list(self) -> list[dict[str, Any]]:
        return [self.show("quickstart-1")]

    def show(self, id: str) -> dict[str, Any] | None:
        state = {"id": id, "config": "quickstart", "state": "failed", "seconds": 1.0}
        return state if id == "quickstart-1" else None

    def stop(self, id: str) -> dict[str, Any] | None:
        if self.show(id) is None:
            return None
        raise RunBusyError("it is over.")

    def models(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        pass


@pytest.fixture(scope="module", params=["open", "token"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The schema of a server that trains; with `token`, one that wants a token for everything."""
    torch.manual_seed(0)
    model = MultiTaskModel.from_encoder(str(save_encoder(tmp_path_factory.mktemp("schema") / "tiny")), max_length=16)
    model.add_head("intent", type="sequence_classification", labels=["booking", "music", "weather"])
    model.add_head("slots", type="token_classification", labels=["O", "B-city"], text="words")
    access = Access(token=TOKEN if request.param == "token" else None, training_token=TRAINING_TOKEN)
    models = Models(Loaded("tiny", ModelInMemory(model.eval())), "tiny")
    app = create_app(models, access=access, runs=NoRuns(), limits=Limits(seconds=20))
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers=HEADERS)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_in_the_schema(api: Any, mode: GenerationMode) -> None:
    checked = 0
    for found in api.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # nothing to get wrong

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        def check(case: schemathesis.Case) -> None:
            case.call_and_validate(headers=HEADERS)

        check()
        checked += 1
    assert checked >= 3
