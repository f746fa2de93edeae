"""Images made smaller and encoded again, for sources far above the resolution that is learnt at."""

import io

from PIL import Image
from torch.nn.functional import interpolate

from noisystudent_core.data.images import decode_image

JPEG_QUALITY = 95


def shrunk(data: bytes, shorter_side_px: int, max_pixels: int) -> tuple[bytes, int, int]:
    """An image file whose shorter side has at most so many pixels, and its height and width, upright.

    A JPEG stays one, at quality 95 without subsampling of colour; all else becomes PNG. Smaller images stay as they
    are. Raises as `decode_image` does.
    """
    image = decode_image(data, max_pixels=max_pixels)
    if min(image.shape[1:]) <= shorter_side_px:
        return data, image.shape[1], image.shape[2]
    height, width = (max(1, round(shorter_side_px * side / min(image.shape[1:]))) for side in image.shape[1:])
    # bicubic and antialiased, in integer arithmetic and clipped, as where images are read
    smaller = interpolate(image[None], [height, width], mode="bicubic", antialias=True)[0]
    file = io.BytesIO()
    picture = Image.fromarray(smaller.permute(1, 2, 0).contiguous().numpy())
    if data.startswith(b"\xff\xd8\xff"):
        picture.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        picture.save(file, "PNG")
    return file.getvalue(), height, width
