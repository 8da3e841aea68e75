"""What a person sees on the page, as numbers."""

import base64
from dataclasses import dataclass, field

import numpy as np

# Lightness, in OKLab, of the least and the greatest value of the maps "even" and "grey": web/src/pure/colour.ts.
LEAST, GREATEST = 0.24, 0.94
# Of a share: a shade of 256, and eight bits of each colour.
TOLERANCE = 0.012

CONES_OF_RGB = np.array(
    [
        [0.4122214708, 0.2119034982, 0.0883024619],
        [0.5363325363, 0.6806995451, 0.2817188376],
        [0.0514459929, 0.1073969566, 0.6299787005],
    ]
)

READ_CANVAS = """([view, offset]) => {
  const canvas = document.querySelector(`canvas[data-view="${view}"][data-offset="${offset}"]`);
  if (!canvas) return null;
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let text = "";
  for (const byte of data) text += String.fromCharCode(byte);
  return { ...canvas.dataset, width: canvas.width, height: canvas.height, pixels: btoa(text) };
}"""


@dataclass
class Seen:
    """A canvas: one pixel a value."""

    pixels: np.ndarray
    least: float
    greatest: float
    step: int | None
    steps: list[int | None]

    @property
    def values(self) -> np.ndarray:
        """What the colours say, `[rows, columns]`; NaN where nothing is drawn. Read back from the lightness alone."""
        share = (_lightness(self.pixels[..., :3]) - LEAST) / (GREATEST - LEAST)
        values = self.least + share * (self.greatest - self.least)
        return np.where(self.pixels[..., 3] == 0, np.nan, values)

    def shows(self, values: np.ndarray) -> bool:
        expected = np.clip(values, self.least, self.greatest)
        apart = np.abs(self.values - expected)
        return bool((apart <= TOLERANCE * (self.greatest - self.least)).all())

    def column(self, step: int) -> "Seen":
        """Of a picture over time: one step's."""
        at = self.steps.index(step)
        return Seen(self.pixels[:, at : at + 1], self.least, self.greatest, step, [step])


def _lightness(rgb: np.ndarray) -> np.ndarray:
    """Of OKLab, from sRGB of eight bits: Ottosson, "A perceptual color space for image processing", 2020."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    cones = linear @ CONES_OF_RGB
    return np.cbrt(cones) @ np.array([0.2104542553, 0.7936177850, -0.0040720468])


@dataclass
class Visit:
    """A page, and what it did that it must not: errors, and requests to anybody but its server."""

    context: object
    http: str
    faults: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("console", self._said)
        self.page.on("request", self._asked)

    def _said(self, message):
        # A failing request is the test's doing; what the page itself does wrong is not.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(f"{message.type}: {message.text}")

    def _asked(self, request):
        if not request.url.startswith((self.http, "blob:", "data:")):
            self.faults.append(f"asked {request.url}")

    def go(self, fragment):
        self.page.goto(f"{self.http}/{fragment}")

    def button(self, name, **options):
        return self.page.get_by_role("button", name=name, **options)

    def row(self, name):
        """Of a table: what is told of the model or session of that name."""
        return self.page.locator("tbody tr").filter(has=self.page.get_by_text(name, exact=True))

    def sees(self, text):
        self.page.get_by_text(text).first.wait_for()

    def figure(self, title):
        return self.page.locator("figure").filter(has=self.page.get_by_role("heading", name=title, exact=True))

    def reads(self, title, column, *, columns=40, click=False) -> str:
        """What is told of a plot of lines where a column of so many is pointed at."""
        lines = self.figure(title).locator(".lines")
        box = lines.bounding_box()
        position = {"x": box["width"] * (column + 0.5) / columns, "y": box["height"] / 2}
        (lines.click if click else lines.hover)(position=position)
        return self.figure(title).locator(".readout").inner_text()

    def canvas(self, view, offset=0) -> Seen:
        told = self.page.evaluate(READ_CANVAS, [view, offset])
        pixels = np.frombuffer(base64.b64decode(told["pixels"]), np.uint8)
        steps = [int(step) if step else None for step in told.get("steps", "").split(" ")]
        return Seen(
            pixels.reshape(told["height"], told["width"], 4), float(told["least"]), float(told["greatest"]),
            int(told["step"]) if "step" in told else None, steps,
        )  # fmt: skip

    def at_step(self, step) -> Seen:
        """The memory, once it is that after so many steps."""
        self.page.locator(f'canvas[data-view="memory"][data-step="{step}"]').wait_for()
        return self.canvas("memory")

    def download(self, name) -> tuple[str, bytes]:
        """A file that a button gives."""
        with self.page.expect_download() as waiting:
            self.button(name).click()
        return waiting.value.suggested_filename, waiting.value.path().read_bytes()
