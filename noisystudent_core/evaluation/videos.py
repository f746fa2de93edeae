"""Videos to frames, by PyAV where it is installed: the sequences of ImageNet-P are H.264 in MP4, 224 x 224 pixels."""

import importlib.util
import io

import torch
from torch import Tensor

from noisystudent_core.errors import ConfigurationError, SourceError

VIDEO_SUFFIX = ".mp4"


def check_decoder(url: str) -> None:
    """Raise `ConfigurationError` unless videos can be decoded here."""
    if importlib.util.find_spec("av") is None:
        raise ConfigurationError(
            f"{url}: *{VIDEO_SUFFIX} are read by PyAV, which is not installed; pip install 'noisy-student[video]', "
            "or give folders of frames in their place, <class>/<video>/<frame>.png"
        )


def decode_video(data: bytes, name: str) -> list[Tensor]:
    """All frames of a video file, uint8 [3, H, W] each, in the order in which they are shown.

    Raises `SourceError` with the file's `name` where it is no video, or damaged.
    """
    import av  # an optional extra
    from av.error import FFmpegError

    try:
        with av.open(io.BytesIO(data), mode="r") as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            num_frames = container.streams.video[0].frames  # by its header; 0: it does not say
    except (FFmpegError, IndexError) as error:  # no stream of pictures
        raise SourceError(f"{name}: {len(data)} bytes that are no video ({error}); copy it again") from None
    if num_frames and len(frames) != num_frames:
        raise SourceError(f"{name}: {len(frames)} frames of {num_frames}: the rest is missing; copy it again")
    return [torch.from_numpy(frame).permute(2, 0, 1).contiguous() for frame in frames]
