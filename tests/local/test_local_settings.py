"""The ``local_*`` settings of the server, used when the provider has no options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from local_helpers import request

from choreo_wsgi.errors import InvalidRequest, ProviderNotConfigured
from choreo_wsgi.local.provider import Local
from choreo_wsgi.settings import Settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that passes for a model until it is loaded."""
    path = tmp_path / "tiny-model.gguf"
    path.write_bytes(b"GGUF")
    return path


def test_local_model_setting_selects_the_file(file: Path) -> None:
    provider = Local("local", {}, Settings(local_model=str(file)))
    assert provider.models() == ["tiny-model"]
    assert provider.label("any") == "local/tiny-model"
    provider.close()


@pytest.mark.parametrize("slots", [1, 4])
def test_local_context_setting_is_divided_by_the_slots(file: Path, slots: int) -> None:
    settings = Settings(local_model=str(file), local_context=1024, local_slots=slots)
    provider = Local("local", {}, settings)
    with pytest.raises(InvalidRequest, match=f" {1024 // slots} tokens") as caught:
        provider.open(request("x" * 1024 * 256))
    assert caught.value.code == "context_length_exceeded"
    provider.close()


#: Stands for the package ``xllamacpp``: reports its parameters instead of loading a model.
REPORTER = """
import json
from types import SimpleNamespace as Space
llama_pooling_type = Space(LLAMA_POOLING_TYPE_LAST="last")
def CommonParams():
    return Space(model=Space(), cpuparams=Space(), cpuparams_batch=Space())
def Server(params):
    raise RuntimeError(json.dumps(params, default=vars))
"""
LAST = {"n_batch": 64, "n_ubatch": 64, "pooling_type": "last"}
OPTIONS: dict[str, Any] = {"threads": 3, "slots": 2, "context": 1024}


@pytest.mark.parametrize(
    ("from_settings", "metadata", "batch"),
    [
        (True, b"", LAST),
        (False, b"x.pooling_type\x04\0\0\0\0", LAST),
        (False, b"x.pooling_type\x04\0\0\0\x01", {"n_batch": 512, "n_ubatch": 512}),
    ],
)
def test_llama_cpp_gets_these_parameters(
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    from_settings: bool,
    metadata: bytes,
    batch: dict[str, Any],
) -> None:
    (tmp_path / "xllamacpp.py").write_text(REPORTER)
    monkeypatch.syspath_prepend(str(tmp_path))
    file.write_bytes(b"GGUF" + metadata)
    own = {} if from_settings else {name: str(value) for name, value in OPTIONS.items()}
    given = {f"local_{name}": value for name, value in OPTIONS.items() if from_settings}
    provider = Local("local", {"model": str(file), **own}, Settings(**given))
    provider.preload()
    with pytest.raises(ProviderNotConfigured):
        provider._process.run().wait(60)
    provider.close()
    (params,) = [
        json.loads(str(record.args[0]))
        for record in caplog.records
        if isinstance(record.args, tuple) and "cannot be started" in record.msg
    ]
    assert (len(params.pop("hostnames")), len(params.pop("api_keys"))) == (1, 1)
    assert params == {
        **batch,
        "model": {"path": str(file)},
        "n_parallel": 2,
        "n_ctx": 1024,
        "cpuparams": {"n_threads": 3},
        "cpuparams_batch": {"n_threads": 3},
        "n_threads_http": 18,
        "embedding": True,
        "cache_ram_mib": 0,
        "verbosity": -1,
        "ui": False,
        "endpoint_slots": False,
        "fit_params": False,
    }
