"""Pictures of a page as small files: screenshots at two widths, light and dark, and an animation of
many frames."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from tests.browser_page import Page

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SIZES = {"wide": (1440, 900, 1), "phone": (390, 844, 2)}  # width, height, device pixels a pixel
SMALL = 80_000  # bytes of a screenshot, as a rule
ANIMATION = 1_500_000  # bytes
# seconds a page has to come to rest; pixels an animation is not made smaller than
STILL, LEAST_WIDTH = (8.0, 560)


def resize(page: Page, size: str) -> None:
    """The page as on a screen of this size."""
    width, height, ratio = SIZES[size]
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": size == "phone"},
    )


def shot(page: Page) -> Picture:
    """What is to be seen now."""
    png = page.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    return Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")


def still(page: Page) -> Picture:
    """What is to be seen once nothing moves any more: two pictures in a row are the same."""
    deadline, before = time.monotonic() + STILL, shot(page)
    while True:
        time.sleep(0.25)
        now = shot(page)
        if now.tobytes() == before.tobytes() or time.monotonic() > deadline:
            return now
        before = now


def four(page: Page, name: str, show: str, out: Path) -> list[Path]:
    """The panel that is open, wide and narrow, light and dark. `show`: the element at the top of
    the narrow picture."""
    files = []
    for size in SIZES:
        resize(page, size)
        page.run(
            "const e = arguments[0] && document.querySelector(arguments[0]); scrollTo({top: e && "
            "innerWidth < 500 ? e.getBoundingClientRect().top + scrollY - 12 : 0, behavior: "
            "'instant'})",
            show,
        )
        for dark in (False, True):
            page.run("window.latentmem.setTheme(arguments[0])", dark)
            files.append(
                save(still(page), out / f"{name}-{size}-{'dark' if dark else 'light'}.webp")
            )
    page.run("window.latentmem.setTheme(false)")
    resize(page, "wide")
    return files


def save(picture: Picture, file: Path) -> Path:
    """As WebP, with as much quality as the size allows."""
    file.parent.mkdir(parents=True, exist_ok=True)
    for quality in (86, 78, 70, 60, 50, 40):
        data = io.BytesIO()
        picture.save(data, "WEBP", quality=quality, method=6)
        if data.tell() <= SMALL:
            break
    file.write_bytes(data.getvalue())
    return file


class Film:
    """Frames in a folder, in the order of their names, so that a capture can be taken up again. A
    part that takes long is thinned out while it grows: a minute and an hour both give at most
    `most` frames."""

    def __init__(self, folder: Path, most: int = 12) -> None:
        self.folder, self.most = folder, most
        self.part, self.kept, self.every, self.last, self.taken = "", list[Path](), 0.0, 0.0, 0

    def begin(self, part: str) -> None:
        """A new part; what there was of it before goes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob(f"{part}-*.png"):
            old.unlink()
        self.part, self.kept, self.every, self.last, self.taken = part, [], 0.5, 0.0, 0

    def frame(self, page: Page, hold: int = 0) -> None:
        """Takes a frame if it is time; `hold`: milliseconds that it stays, and then it is always
        taken."""
        if not hold and time.monotonic() - self.last < self.every:
            return
        self.last, self.taken = time.monotonic(), self.taken + 1
        file = self.folder / f"{self.part}-{self.taken:04d}-{hold or 260}.png"
        shot(page).save(file)
        if not hold:
            self.kept.append(file)
        if len(self.kept) > self.most:
            for late in self.kept[1::2]:
                late.unlink()
            self.kept, self.every = self.kept[::2], 2 * self.every


def animation(frames: Sequence[Path], file: Path, width: int = 960) -> Path:
    """One WebP of all frames; the file's name of a frame ends in the milliseconds that it stays."""
    for width_, quality in (
        (width, 60),
        (width, 45),
        (800, 45),
        (720, 40),
        (640, 35),
        (LEAST_WIDTH, 30),
    ):
        pictures = [Image.open(f).convert("RGB") for f in frames]
        pictures = [
            p.resize((width_, round(p.height * width_ / p.width)), Image.Resampling.LANCZOS)
            for p in pictures
        ]
        data = io.BytesIO()
        pictures[0].save(
            data,
            "WEBP",
            save_all=True,
            append_images=pictures[1:],
            loop=0,
            quality=quality,
            method=4,
            duration=[int(f.stem.rsplit("-", 1)[1]) for f in frames],
        )
        if data.tell() <= ANIMATION:
            break
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data.getvalue())
    return file
