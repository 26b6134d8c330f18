"""Captions by BLIP-2 and a chat model: two stages, whose models need not be in memory together, and one backend.

    FaceStage: segment -> texts on its cube faces          JoinStage: texts of segments -> captions

On a small GPU, run `FaceStage` over all segments, drop it, then run `JoinStage`; the texts are on disk in between.
`ModelCaptions` runs both stages on one segment at a time and keeps both models loaded.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice

import numpy as np

from con360av_jax.errors import ConfigError, DatasetError
from preprocess.captions.blip2_llama.caption_joiner import CaptionJoiner, as_caption, open_chat_tokenizer
from preprocess.captions.blip2_llama.face_captioner import FaceCaptioner, check_blip2
from preprocess.captions.blip2_llama.faces import FACES, face_pictures, face_times, picture_digest
from preprocess.captions.blip2_llama.model_folders import ModelFolder, choose_device, open_model_folder, require_torch
from preprocess.captions.blip2_llama.prompts import Prompts, load_prompts
from preprocess.captions.blip2_llama.texts import CaptionTexts, Described, FaceText
from preprocess.captions.contract import CaptionSettings, Tracks
from preprocess.stages.segment import Segment
from preprocess.stages.work import Stage, Work, Works, attempted, each, there


@dataclass(frozen=True, kw_only=True)
class FaceStage:
    """Segments to face texts; loads the model at the first segment whose texts are not on disk."""

    model: ModelFolder
    prompts: Prompts
    texts: CaptionTexts
    frames_per_second: float
    device: str = "auto"
    batch_size: int = 24

    @cached_property
    def captioner(self) -> FaceCaptioner:
        """The loaded BLIP-2."""
        return FaceCaptioner(self.model.path, self.device, prompts=self.prompts, batch_size=self.batch_size)

    def __call__(self, segment: Segment) -> Described:
        """Texts on all faces and times of a segment; raises DatasetError if all of them are empty."""
        times = face_times(segment, self.frames_per_second)
        looks = [(time, face) for time in times for face in FACES]
        frames = segment.frames[np.array(list(times.values()))]
        made_from = self.model.source | {"prompt": self.prompts.face_digest, "picture": picture_digest(frames)}
        clip, index = segment.window.clip.name, segment.window.index
        kept = self.texts.find_faces(clip, index, made_from)
        described = Described(clip=clip, segment=index, texts=kept)
        if [(text.time, text.face) for text in kept] != looks:
            written = self.captioner(face_pictures(frames, self.captioner.face_size))
            texts = (
                FaceText(time=time, face=face, text=text) for (time, face), text in zip(looks, written, strict=True)
            )
            described = Described(clip=clip, segment=index, texts=tuple(texts))
            self.texts.keep_faces(described, made_from)
        if not any(text.text for text in described.texts):
            raise DatasetError(
                f"{segment.name}: {self.model.name} wrote nothing on any of {len(looks)} faces "
                f"(see {self.texts.path(clip)}); change the face prompt or the model"
            )
        return described


@dataclass(frozen=True, kw_only=True)
class JoinStage:
    """Face texts to captions; loads the model at the first segment whose caption is not on disk."""

    model: ModelFolder
    prompts: Prompts
    texts: CaptionTexts
    device: str = "auto"
    batch_size: int = 8

    @cached_property
    def joiner(self) -> CaptionJoiner:
        """The loaded chat model."""
        return CaptionJoiner(self.model.path, self.device, prompts=self.prompts, batch_size=self.batch_size)

    def __call__(self, segments: Sequence[Described]) -> list[str]:
        """One caption per segment; empty where the model answered nothing, which `require_caption` rejects.

        In half precision a caption may, rarely, depend on the other segments of its batch. To reproduce a dataset byte
        for byte, give the same segments together, or keep the texts.
        """
        captions = [self.texts.find_caption(given.clip, given.segment, self._made_from(given)) for given in segments]
        missing = [number for number, caption in enumerate(captions) if caption is None]
        # One batch at a time, so that a stopped run keeps its captions.
        for first in range(0, len(missing), self.batch_size):
            numbers = missing[first : first + self.batch_size]
            answers = self.joiner([segments[number].texts for number in numbers])
            for number, answer in zip(numbers, answers, strict=True):
                caption = captions[number] = as_caption(answer)
                self.texts.keep_caption(segments[number], caption, answer, self._made_from(segments[number]))
        return [caption or "" for caption in captions]

    def require_caption(self, described: Described, caption: str) -> str:
        """Returns `caption`; raises DatasetError if it is empty."""
        if not caption:
            raise DatasetError(
                f"{described.clip}_{described.segment}: {self.model.name} wrote an empty caption "
                f"(see {self.texts.path(described.clip)}); change the join prompt or the model"
            )
        return caption

    def _made_from(self, described: Described) -> dict[str, str]:
        texts = json.dumps([asdict(text) for text in described.texts]).encode()
        faces = hashlib.sha256(texts).hexdigest()[:16]
        return self.model.source | {"prompt": self.prompts.join_digest, "faces": faces}


@dataclass(frozen=True, kw_only=True)
class ModelCaptions:
    """The caption backend `blip2+llama`: both stages on one segment at a time."""

    faces: FaceStage
    join: JoinStage

    def __call__(self, segment: Segment, tracks: Tracks) -> str:
        """Caption of the segment; raises DatasetError if either model wrote nothing."""
        described = self.faces(segment)
        (caption,) = self.join([described])
        return self.join.require_caption(described, caption)

    def stages(self) -> tuple[Stage, tuple[Stage, ...]]:
        """The two stages of the chain, see `as_stages`; each process then loads one model."""
        describe = each("captions", lambda work: replace(work, described=self.faces(there(work.segment))), self.on_gpu)
        return describe, (Stage(name="captions", run=self._joined, on_gpu=self.on_gpu, at_once=self.join.batch_size),)

    @property
    def on_gpu(self) -> bool:
        """Whether the models may use a GPU."""
        return self.join.device != "cpu"

    def _joined(self, works: Works) -> Iterator[Work]:
        """Joins as many segments at once as the chat model takes."""
        waiting = iter(works)
        # Batches gain nothing on a CPU, and without them captions cannot depend on the batch.
        at_once = 1 if choose_device(self.join.device).type == "cpu" else self.join.batch_size
        while some := list(islice(waiting, at_once)):
            todo = [work for work in some if work.waits]
            if len(todo) > 1:
                # Stores the captions on disk, where the calls for single segments below find them.
                attempted("captions", todo[0], lambda work, todo=todo: self._join_together(work, todo))
            yield from (attempted("captions", work, self._caption) if work.waits else work for work in some)

    def _join_together(self, work: Work, together: list[Work]) -> Work:
        self.join([one.described for one in together])
        return work

    def _caption(self, work: Work) -> Work:
        (caption,) = self.join([work.described])
        return replace(work, caption=self.join.require_caption(work.described, caption), described=None)

    @property
    def sources(self) -> dict[str, str]:
        """Models and prompts of the captions, for the dataset's manifest."""
        models = {
            name: f"{stage.model.name} {stage.model.revision}"
            for name, stage in (("faces", self.faces), ("join", self.join))
        }
        return models | {"prompts": f"{self.faces.prompts.face_digest} {self.join.prompts.join_digest}"}


def open_blip2_llama(settings: CaptionSettings, frames_per_second: float) -> ModelCaptions:
    """The backend, after every check that needs no loaded model; raises as `open_captions` does."""
    for option, given in (("--caption-faces", settings.faces), ("--caption-join", settings.join)):
        if not given:
            raise ConfigError(f"--captions blip2+llama needs {option}: give a model's folder or its Hugging Face id")
    if settings.batch_size < 1:
        raise ConfigError(f"--caption-batch is {settings.batch_size}; give 1 or more")
    require_torch()
    prompts = load_prompts(settings.prompts)
    blip2 = open_model_folder(settings.faces, "--caption-faces", settings.from_hub)
    check_blip2(blip2.path)
    chat = open_model_folder(settings.join, "--caption-join", settings.from_hub)
    open_chat_tokenizer(chat.path)
    choose_device(settings.device)
    texts = CaptionTexts(settings.texts)
    faces = FaceStage(
        model=blip2,
        prompts=prompts,
        texts=texts,
        frames_per_second=frames_per_second,
        device=settings.device,
        batch_size=settings.batch_size,
    )
    return ModelCaptions(faces=faces, join=JoinStage(model=chat, prompts=prompts, texts=texts, device=settings.device))
