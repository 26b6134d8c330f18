"""The Python interface: seeds, control maps, batches, meshes, and what a checkpoint's weights are."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import con360av_jax as c3
from con360av_jax.base.pretrained import open_pretrained
from con360av_jax.config.settings import Config, MeshConfig, PerModality
from con360av_jax.config.shapes import latent_shapes
from con360av_jax.diffusion.schedule import betas
from con360av_jax.errors import CheckpointError, ConfigError, GeometryError, MediaError
from con360av_jax.media.files import probe, read_audio, read_frames
from con360av_jax.model import Con360AV, sampler_settings
from con360av_jax.models.functional import flatten
from con360av_jax.sharding import make_mesh
from con360av_jax.sphere.geometry import basd
from tests.support import tiny_world

pytestmark = pytest.mark.usefixtures("quick_compiles")

# Float32 sums in another order (another batch size or mesh), carried through three guided steps with scale 7.5.
ROUNDING = 1e-3
CAPTIONS = ("a bell rings", "a drum rolls")
VIEWS = (c3.Viewpoint(yaw=30), c3.Viewpoint(yaw=-120, pitch=20, fov=60))


@pytest.fixture(scope="module")
def model(lean: Config) -> Con360AV:
    return c3.load(tiny_world.run(lean))


@pytest.fixture(scope="module")
def saliency(lean: Config) -> np.ndarray:
    clip = lean.clip
    return np.random.default_rng(1).random((clip.frames, clip.map_height, clip.map_width, 1), np.float32)


@pytest.fixture(scope="module")
def pair(model: Con360AV, saliency: np.ndarray) -> list[c3.Clip]:
    return model.generate_batch(CAPTIONS, VIEWS, [saliency, saliency], seeds=[5, 9])


def close(one: dict, other: dict) -> None:
    for name in one:
        scale = np.abs(np.asarray(one[name])).max()
        np.testing.assert_allclose(one[name], other[name], atol=ROUNDING * scale)


def test_noise_depends_on_its_own_seed_only(model: Con360AV):
    batch, alone = model.noise([3, 11, 2**32 - 1]), model.noise([11])
    for name, shape in latent_shapes(model.config).items():
        assert batch[name].shape == (3, *shape)
        np.testing.assert_array_equal(batch[name][1], alone[name][0])
        assert not np.array_equal(batch[name][0], batch[name][1])
    with pytest.raises(ConfigError, match="seed"):
        model.noise([-1])


def test_a_clip_has_the_config_s_video_and_audio(model: Con360AV, pair: list[c3.Clip], lean: Config, tmp_path: Path):
    clip = pair[0]
    assert clip.video.shape == (4, 16, 16, 3) and clip.video.dtype == np.uint8
    assert clip.audio.shape == (16_000,) and clip.audio.dtype == np.float32
    clip.save(tmp_path / "view.mp4")
    info = probe(tmp_path / "view.mp4")
    assert (info.width, info.height, info.sample_rate, info.has_audio) == (16, 16, 16_000, True)
    assert read_frames(tmp_path / "view.mp4", lean.clip.frames_per_second).shape == (4, 16, 16, 3)
    assert read_audio(tmp_path / "view.mp4", 16_000, seconds=1.0).shape == (16_000, 1)
    with pytest.raises(MediaError, match=r"\.mp4"):
        clip.save(tmp_path / "view.avi")
    assert [path.name for path in tmp_path.iterdir()] == ["view.mp4"]


def test_saved_control_is_what_the_model_saw(pair: list[c3.Clip], saliency: np.ndarray, tmp_path: Path):
    pair[1].save_control(tmp_path / "view.npz")
    with np.load(tmp_path / "view.npz") as arrays:
        np.testing.assert_array_equal(arrays["viewpoint"], VIEWS[1].track(4))
        np.testing.assert_array_equal(arrays["basd"][..., 0], basd(VIEWS[1].track(4), 16, 32))
        low, high = saliency.min(), saliency.max()
        np.testing.assert_allclose(arrays["saliency"], (saliency - low) / (high - low), atol=1e-6)


def test_a_clip_does_not_depend_on_its_batch(model: Con360AV, pair: list[c3.Clip], saliency: np.ndarray):
    others = model.generate_batch(
        (CAPTIONS[1], "wind"), (VIEWS[1].track(4), VIEWS[0]), [saliency[..., 0], None], seeds=[9, 2]
    )
    assert np.abs(others[0].video.astype(int) - pair[1].video).max() <= 1
    np.testing.assert_allclose(others[0].audio, pair[1].audio, atol=ROUNDING)
    assert np.abs(others[0].video.astype(int) - pair[0].video).max() > 1


def test_clips_with_and_without_control_share_a_batch_and_a_program(
    model: Con360AV, pair: list[c3.Clip], saliency: np.ndarray
):
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(str(kwargs.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        mixed = model.generate_batch(CAPTIONS, [VIEWS[0], None], [saliency, None], seeds=[5, 9])
        without = model.generate_batch(CAPTIONS, seeds=[5, 9])
        guided = replace(model.config.sampler, map_guidance=PerModality(audio=3.0, video=3.0))
        again = model.generate_batch(CAPTIONS, seeds=[5, 9], settings=guided)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert "jit(run)" not in compiled
    for found, wanted in ((mixed[0], pair[0]), (mixed[1], without[1]), (again[0], without[0])):
        np.testing.assert_array_equal(found.video, wanted.video)
        np.testing.assert_array_equal(found.audio, wanted.audio)
    assert not np.array_equal(mixed[1].video, pair[1].video)
    assert mixed[0].maps is not None and mixed[1].maps is None and mixed[1].viewpoint is None
    with pytest.raises(GeometryError, match="without a viewpoint"):
        model.generate_batch(CAPTIONS, [VIEWS[0], None], [None, saliency])


def test_eight_devices_give_the_same_samples(model: Con360AV, lean: Config):
    spread = c3.load(tiny_world.run(lean), mesh=c3.MeshConfig(data=2, fsdp=2, tensor=2))
    text, negative = model.encode_text(CAPTIONS), model.encode_text(["", ""])
    maps = np.stack([model.control(view)[0] for view in VIEWS])
    one, eight = (each.sample_latents(each.noise([5, 9]), text, negative, maps) for each in (model, spread))
    assert len(jax.tree.leaves(spread.params)[0].sharding.device_set) == 8
    close(one, eight)


def test_moving_the_viewpoint_moves_the_sample(model: Con360AV):
    text, negative, noise = model.encode_text(["a bell"] * 2), model.encode_text([""] * 2), model.noise([5, 5])
    maps = np.stack([model.control(view)[0] for view in VIEWS])
    moved = model.sample_latents(noise, text, negative, maps)
    for name in moved:
        assert np.abs(np.asarray(moved[name][0]) - np.asarray(moved[name][1])).max() > 1e-3


def test_denoise_takes_one_modality_alone(model: Con360AV):
    noise, text = model.noise([1]), model.encode_text(["a bell"])
    timesteps = {"audio": jnp.array([500], jnp.int32)}
    alone = model.denoise({"audio": noise["audio"]}, timesteps, text, modalities=("audio",))
    assert set(alone) == {"audio"} and alone["audio"].shape == noise["audio"].shape


def test_denoise_gives_the_noise_of_a_model_that_predicts_velocity(model: Con360AV, lean: Config):
    """eps = sqrt(1 - a) x_t + sqrt(a) v, with the network's prediction as v."""
    x_t, text = {"audio": model.noise([1])["audio"]}, model.encode_text(["a bell"])
    timesteps = {"audio": jnp.array([500], jnp.int32)}
    v = model.denoise(x_t, timesteps, text, modalities=("audio",))["audio"]
    schedules = model.config.schedule
    schedule = PerModality(audio=replace(schedules.audio, prediction="v"), video=schedules.video)
    config, pretrained = replace(model.config, schedule=schedule), open_pretrained(tiny_world.base(lean))
    velocity = Con360AV(config, model.params, pretrained, make_mesh(MeshConfig()))
    found = velocity.denoise(x_t, timesteps, text, modalities=("audio",))["audio"]
    a = np.cumprod(1 - betas(schedules.audio))[500]
    np.testing.assert_allclose(found, np.sqrt(1 - a) * x_t["audio"] + np.sqrt(a) * v, rtol=1e-4, atol=1e-5)


def test_control_without_saliency_is_the_viewpoint_s_distance_map(model: Con360AV):
    maps, track = model.control(VIEWS[0])
    assert maps.shape == (4, 16, 32, 2) and maps.dtype == np.float32
    assert not maps[..., 0].any()
    np.testing.assert_array_equal(maps[..., 1], basd(VIEWS[0].track(4), 16, 32))
    np.testing.assert_array_equal(track, VIEWS[0].track(4))


def test_one_saliency_map_holds_for_all_frames(model: Con360AV, saliency: np.ndarray):
    still = saliency[0, ..., 0]
    maps, _ = model.control(VIEWS[0], still)
    np.testing.assert_array_equal(maps[0], maps[3])
    np.testing.assert_array_equal(model.control(VIEWS[0], saliency[..., 0])[0], model.control(VIEWS[0], saliency)[0])


def test_wrong_control_is_refused(model: Con360AV, saliency: np.ndarray):
    with pytest.raises(GeometryError, match=r"\(4, 16, 32, 1\) or \(16, 32\), but is \(3, 16, 32, 1\)"):
        model.control(VIEWS[0], saliency[:3])
    with pytest.raises(GeometryError, match="finite"):
        model.control(VIEWS[0], np.full((16, 32), np.nan))
    with pytest.raises(GeometryError, match=r"\(4, 4\), but is \(3, 4\)"):
        model.control(VIEWS[0].track(3))
    with pytest.raises(GeometryError, match="without a viewpoint"):
        model.generate("a bell", saliency=saliency)
    with pytest.raises(ConfigError, match="2 captions but 1 seeds"):
        model.generate_batch(CAPTIONS, VIEWS, seeds=[1])


def test_sampler_settings_replace_what_is_given_only(lean: Config):
    settings = sampler_settings(lean.sampler, 7, {"audio": 1.0, "video": 2.0}, 3.0, None)
    assert (settings.steps, settings.text_guidance.video, settings.map_guidance.audio) == (7, 2.0, 3.0)
    apart = sampler_settings(lean.sampler, None, None, None, None, {"audio": None, "video": 2})
    assert apart.saliency_guidance == PerModality(audio=None, video=2.0)
    assert replace(settings, steps=3).timestep_gamma == lean.sampler.timestep_gamma
    assert sampler_settings(lean.sampler, None, None, None, None) == lean.sampler
    with pytest.raises(ConfigError, match="audio, video"):
        sampler_settings(lean.sampler, None, {"video": 2.0}, None, None)


def test_a_run_opens_with_its_average_or_its_trained_weights(model: Con360AV, lean: Config):
    run = tiny_world.run(lean)
    base = flatten(c3.load(tiny_world.base(lean)).params)
    average, trained = flatten(model.params), flatten(c3.load(run / "checkpoints" / "7", ema=False).params)
    assert model.step == 7
    for path, leaf in base.items():
        learns = path.split("/")[0] in ("film", "map_encoder")
        np.testing.assert_array_equal(average[path], tiny_world.moved(leaf, 0.2) if learns else leaf)
        np.testing.assert_array_equal(trained[path], tiny_world.moved(leaf, 0.1) if learns else leaf)


def test_what_is_no_checkpoint_is_refused(lean: Config, tmp_path: Path):
    run = tiny_world.run(lean)
    for path, words in (
        (tmp_path / "nothing", "does not exist"),
        (tmp_path, "is not a pretrained folder"),
        (run / "checkpoints" / "8", "does not exist"),
        (run / "checkpoints" / "7" / "ema", "is not a pretrained folder"),
    ):
        with pytest.raises(CheckpointError, match=words):
            c3.load(path)
