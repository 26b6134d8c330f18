"""Nothing is downloaded unless asked for, and then only what is needed."""

from pathlib import Path

import pytest

from con360av_jax.errors import CheckpointError
from convert.cli import main
from convert.torch_files.hub import local, wanted_files

FILES = [
    "README.md", "model_index.json", "v1-5-pruned.safetensors", "unet/config.json",
    "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.bin",
    "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors",
    "tokenizer/merges.txt", "vae/diffusion_pytorch_model.bin",
]  # fmt: skip


def test_one_format_of_each_network_is_wanted():
    assert wanted_files(FILES) == [
        "model_index.json", "unet/config.json", "tokenizer/merges.txt",
        "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin",
    ]  # fmt: skip
    assert wanted_files(["mm_sd_v15.ckpt", "README.md"]) == ["mm_sd_v15.ckpt"]


def test_a_path_stays_what_it_is(tmp_path: Path):
    assert local(tmp_path, from_hub=True) == tmp_path


@pytest.mark.parametrize("from_hub", [False, True])
def test_a_wrong_path_is_no_id(from_hub: bool):
    with pytest.raises(CheckpointError, match="no such file or folder: /nowhere/at/all"):
        local(Path("/nowhere/at/all"), from_hub)


def test_an_id_is_downloaded_only_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    hub = pytest.importorskip("huggingface_hub")
    asked: list[tuple[str, list[str]]] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.setattr(hub.HfApi, "list_repo_files", lambda self, name: FILES)
    assert main(["base", "--out", str(tmp_path / "base"), "--baseline", "someone/pipeline"]) == 2
    assert "give --from-hub" in capsys.readouterr().err
    assert not asked
    assert local(Path("someone/pipeline"), from_hub=True) == tmp_path
    assert asked == [("someone/pipeline", wanted_files(FILES))]


def test_a_failed_download_is_one_error(monkeypatch: pytest.MonkeyPatch):
    hub = pytest.importorskip("huggingface_hub")

    def offline(self: object, name: str) -> list[str]:
        raise OSError("no route to host")

    monkeypatch.setattr(hub.HfApi, "list_repo_files", offline)
    with pytest.raises(CheckpointError, match="someone/pipeline cannot be downloaded: no route to host"):
        local(Path("someone/pipeline"), from_hub=True)
