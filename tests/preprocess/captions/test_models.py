"""BLIP-2 and the chat model alone: greedy, batched, without their prompts; the pictures they see; what is refused."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from con360av_jax.errors import CheckpointError, ConfigError
from con360av_jax.sphere.geometry import directions
from preprocess.captions.blip2_llama.caption_joiner import DATE, MOST_WORDS, CaptionJoiner, as_caption
from preprocess.captions.blip2_llama.face_captioner import FaceCaptioner
from preprocess.captions.blip2_llama.faces import FACES, face_pictures, face_times
from preprocess.captions.blip2_llama.model_folders import open_model_folder
from preprocess.captions.blip2_llama.prompts import DEFAULT_PROMPTS, load_prompts
from preprocess.captions.blip2_llama.texts import FaceText
from preprocess.stages.segment import Segment, Window
from tests.support.caption_networks import PICTURE, QUERIES, save_blip2, save_llama, word_tokenizer
from tests.support.panorama_files import standard_clip

torch = pytest.importorskip("torch", reason="caption models are PyTorch's: pip install -e '.[torch]'")
pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = load_prompts()
TEXTS = ("a dog in a park", "two red boat near river tree", "old child sings")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_blip2(folder / "opt", "opt")
    save_blip2(folder / "t5", "t5")
    save_llama(folder / "llama")
    return folder


def pictures(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, PICTURE, PICTURE, 3)).astype(np.uint8)


def looks(*texts: str) -> list[FaceText]:
    return [FaceText(time=0.5, face="front", text=text) for text in texts]


def greedy_words(step, words: int) -> str:
    """The likeliest words one after the other; `step` gives the next logits after the tokens so far."""
    tokens: list[int] = []
    with torch.no_grad():
        while len(tokens) < words:
            tokens.append(int(step(tokens).argmax()))
            if tokens[-1] == 0:
                break
    return str(word_tokenizer().decode(tokens, skip_special_tokens=True))


def test_a_phrase_is_the_greedy_continuation_of_the_prompt_and_does_not_repeat_it(models: Path):
    from transformers import Blip2ForConditionalGeneration

    model = Blip2ForConditionalGeneration.from_pretrained(models / "opt")
    image_token = len(word_tokenizer())
    model.config.image_token_index = image_token
    mean, spread = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    picture = torch.tensor((pictures(1) / 255 - mean) / spread, dtype=torch.float32).permute(0, 3, 1, 2)
    prompt = [image_token] * QUERIES + word_tokenizer()("a photo of")["input_ids"]
    wanted = greedy_words(
        lambda tokens: model(pixel_values=picture, input_ids=torch.tensor([prompt + tokens])).logits[0, -1], words=6
    )
    (phrase,) = FaceCaptioner(models / "opt", prompts=PROMPTS)(pictures(1))
    assert len(wanted) > 10 and phrase.startswith(wanted)


@pytest.mark.parametrize("language", ["opt", "t5"])
def test_phrases_depend_on_their_picture_only(models: Path, language: str):
    together = FaceCaptioner(models / language, prompts=PROMPTS)(pictures(3))
    pairs = FaceCaptioner(models / language, prompts=PROMPTS, batch_size=2)(pictures(3))
    assert together == pairs
    assert len(set(together)) > 1 and all(together)


def test_pictures_of_any_size_and_half_precision_are_taken(models: Path):
    captioner = FaceCaptioner(models / "opt", dtype="bfloat16", prompts=PROMPTS)
    assert captioner.face_size == PICTURE
    assert len(captioner(np.zeros((2, 3, 5, 3), np.uint8))) == 2


def test_an_answer_is_the_greedy_continuation_of_the_chat_on_a_fixed_date_whatever_the_batch(models: Path):
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(models / "llama")
    chat = f"</s>{DATE} <user> {PROMPTS.question(looks(TEXTS[1]))} <assistant>"
    prompt = word_tokenizer()(chat)["input_ids"]
    wanted = greedy_words(lambda tokens: model(input_ids=torch.tensor([prompt + tokens])).logits[0, -1], words=8)
    segments = [looks(TEXTS[0]), looks(TEXTS[1]), looks(*TEXTS)]
    together = CaptionJoiner(models / "llama", prompts=PROMPTS)(segments)
    assert len(wanted) > 10 and together[1].startswith(wanted)
    assert len(set(together)) == 3
    assert CaptionJoiner(models / "llama", prompts=PROMPTS, batch_size=2)(segments) == together


def test_the_question_lists_every_text_with_time_and_face_and_leaves_braces_alone():
    texts = [
        FaceText(time=3.5, face="up", text="{descriptions} in braces"),
        FaceText(time=4.5, face="down", text=""),
        FaceText(time=4.5, face="left", text="a dog"),
    ]
    question = PROMPTS.question(texts)
    assert "3.5 s, up: {descriptions} in braces\n4.5 s, left: a dog\n" in question
    assert "down" not in question


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("A dog runs.", "A dog runs."),
        ('Here is the sentence:\n\n"A dog  runs\nin a park."\n', "A dog runs in a park."),
        ('"Dog" runs.', '"Dog" runs.'),
        ("  \n ", ""),
        ("word " * MOST_WORDS, ("word " * MOST_WORDS).strip()),
        ("word " * 40 + "word, " + "word " * 40, "word " * 40 + "word."),
        ("word " * 90, ("word " * MOST_WORDS).strip() + "."),
    ],
)
def test_an_answer_becomes_as_caption_that_text_encoders_can_read(answer: str, caption: str):
    assert as_caption(answer) == caption


def test_each_face_looks_where_its_name_says_at_every_time():
    panorama = ((directions(64, 128) + 1) / 2 * 255).round().astype(np.uint8)
    faces = face_pictures(np.stack([panorama, panorama // 2]), 15)
    assert faces.shape == (12, 15, 15, 3)
    seen = faces[:6, 7, 7] / 255 * 2 - 1
    towards = {"front": (0, 0, 1), "right": (1, 0, 0), "back": (0, 0, -1), "left": (-1, 0, 0), "up": (0, 1, 0)}
    np.testing.assert_allclose(seen, [towards.get(face, (0, -1, 0)) for face in FACES], atol=0.05)
    np.testing.assert_allclose(faces[6:], faces[:6] / 2, atol=1)
    # The left edge of the front face is 45 degrees to the left; the top of "down" joins the front.
    np.testing.assert_allclose(faces[0, 7, 0] / 255 * 2 - 1, (-0.68, 0, 0.73), atol=0.06)
    assert faces[5, 0, 7, 2] > 200


def test_faces_are_looked_at_in_the_middle_of_each_second():
    clip = standard_clip(Path("a.mp4"), height=2)
    segment = Segment(
        window=Window(clip=clip, index=1, start=3.0),
        frames=np.zeros((32, 2, 4, 3), np.uint8),
        audio=np.zeros(64_000, np.float32),
    )
    assert face_times(segment, 8) == {3.5: 4, 4.5: 12, 5.5: 20, 6.5: 28}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("face = ", "cannot be read"),
        ('face = "a"\nline = "{text}"', "give a text for each of"),
        ('face = "a"\nline = "{time}"\njoin = "{descriptions}"', "line has placeholders"),
        ('face = "{face}"\nline = "{text}"\njoin = "{descriptions}"', "face has placeholders"),
        ('face = "a"\nline = "{text}"\njoin = "{descriptions} {tone}"', "tone"),
    ],
)
def test_prompts_that_cannot_be_filled_in_are_refused(tmp_path: Path, text: str, reason: str):
    (tmp_path / "prompts.toml").write_text(text)
    with pytest.raises(ConfigError, match=reason):
        load_prompts(tmp_path / "prompts.toml")


def test_the_prompt_asks_where_and_when():
    asked = " ".join(PROMPTS.join.split())
    assert all(place in asked for place in ("in front", "to the right", "behind", "to the left", "above or below"))
    assert "what changes then" in asked
    assert "Do not mention directions" not in asked


def test_edited_prompts_have_another_hash_where_they_differ(tmp_path: Path):
    edited = tmp_path / "prompts.toml"
    edited.write_text(DEFAULT_PROMPTS.read_text().replace("Describe the whole scene", "Summarise the scene"))
    prompts = load_prompts(edited)
    assert prompts.join_digest != PROMPTS.join_digest
    assert prompts.face_digest == PROMPTS.face_digest


def test_a_model_with_a_missing_weight_or_a_damaged_file_is_refused(tmp_path: Path):
    weights = save_blip2(tmp_path / "model") / "model.safetensors"
    arrays = load_file(weights)
    del arrays["language_projection.weight"]
    save_file(arrays, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weights, such as language_projection\.weight"):
        FaceCaptioner(weights.parent, prompts=PROMPTS)
    os.truncate(weights, 100)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        FaceCaptioner(weights.parent, prompts=PROMPTS)


@pytest.mark.parametrize("damaged", ["tokenizer.json", "preprocessor_config.json", "config.json"])
def test_a_folder_with_a_damaged_file_is_refused(tmp_path: Path, damaged: str):
    folder = save_blip2(tmp_path / "model")
    (folder / damaged).write_text('{"version": 3')
    with pytest.raises(CheckpointError, match=re.escape(str(folder))):
        FaceCaptioner(folder, prompts=PROMPTS)


def test_a_model_that_shares_its_first_and_last_weights_is_whole(tmp_path: Path):
    folder = save_llama(tmp_path / "llama", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    assert len(CaptionJoiner(folder, prompts=PROMPTS)([looks("a dog")])) == 1


def test_a_prompt_longer_than_the_model_reads_is_refused(models: Path):
    with pytest.raises(CheckpointError, match="reads 768 tokens"):
        CaptionJoiner(models / "llama", prompts=PROMPTS)([looks(" ".join(["dog"] * 700))])


def test_a_tokenizer_with_more_words_than_the_model_is_refused(tmp_path: Path):
    folder = save_blip2(tmp_path / "model", vocab_size=len(word_tokenizer()))
    with pytest.raises(CheckpointError, match=re.escape(f"the model {len(word_tokenizer())}")):
        FaceCaptioner(folder, prompts=PROMPTS)


def test_a_device_that_is_not_here_is_refused(models: Path):
    with pytest.raises(ConfigError, match="--caption-device"):
        FaceCaptioner(models / "opt", "tpu", prompts=PROMPTS)


def test_the_revision_of_a_folder_is_its_content(tmp_path: Path):
    def revision(name: str) -> str:
        return open_model_folder(str(tmp_path / name), "--caption-join").revision

    save_llama(tmp_path / "one")
    save_llama(tmp_path / "two")
    assert revision("one") == revision("two")
    (tmp_path / "two" / "README.md").write_text("the same model")
    assert revision("one") == revision("two")
    save_llama(tmp_path / "two", chat_template="{{ messages }}")
    assert revision("one") != revision("two")
