// The pictures of a session as one PNG, for a paper or a message.

const SCALE = 2;
const MARGIN = 24;
const TITLE = 18;
const BELOW = 18;

interface Part {
  readonly title: string;
  readonly scale: string;
  /** Or it stands above it, for it and its neighbours. */
  readonly scaleIsHere: boolean;
  readonly legend: readonly Entry[];
  readonly canvas: HTMLCanvasElement;
  /** On the screen, in pixels, from the corner of the pictures. */
  readonly box: { readonly x: number; readonly y: number; readonly width: number; readonly height: number };
  readonly x: readonly Label[];
  readonly y: readonly Label[];
  readonly cursor: number | null;
}

interface Label {
  readonly text: string;
  readonly at: number;
}

interface Entry {
  readonly text: string;
  readonly colour: string;
  readonly dashed: boolean;
}

function legendOf(figure: Element): Entry[] {
  return Array.from(figure.querySelectorAll(".legend"), (entry) => {
    const style = getComputedStyle(entry.querySelector(".swatch") ?? entry);
    return {
      text: entry.textContent ?? "",
      colour: style.borderTopColor,
      dashed: style.borderTopStyle === "dashed",
    };
  });
}

function labelsOf(figure: Element, axis: "x" | "y"): Label[] {
  return Array.from(figure.querySelectorAll<HTMLElement>(`.ticks.${axis} span`), (span) => ({
    text: span.textContent ?? "",
    at: Number.parseFloat(axis === "x" ? span.style.left : span.style.top) / 100,
  }));
}

function partsOf(pictures: HTMLElement): Part[] {
  const corner = pictures.getBoundingClientRect();
  return Array.from(pictures.querySelectorAll("figure.plot")).flatMap((figure) => {
    const canvas = figure.querySelector<HTMLCanvasElement>(".canvas canvas");
    if (!canvas) return [];
    const box = canvas.getBoundingClientRect();
    const cursor = figure.querySelector<HTMLElement>(".cursor");
    return [
      {
        title: figure.querySelector("h3")?.textContent ?? "",
        scale: canvas.dataset.scale ?? "",
        scaleIsHere: figure.querySelector(".bar-of-colour") !== null,
        legend: legendOf(figure),
        canvas,
        box: { x: box.left - corner.left, y: box.top - corner.top, width: box.width, height: box.height },
        x: labelsOf(figure, "x"),
        y: labelsOf(figure, "y"),
        cursor: cursor ? Number.parseFloat(cursor.style.left) / 100 : null,
      },
    ];
  });
}

/** From right to left: what each line is, and beside it how it is drawn. */
function drawLegend(context: CanvasRenderingContext2D, part: Part): void {
  let right = part.box.x + part.box.width;
  for (const { text, colour, dashed } of [...part.legend].reverse()) {
    context.fillText(text, right, part.box.y - 7);
    right -= context.measureText(text).width + 26;
    context.save();
    context.strokeStyle = colour;
    context.lineWidth = 2;
    if (dashed) context.setLineDash([5, 3]);
    context.beginPath();
    context.moveTo(right, part.box.y - 11);
    context.lineTo(right + 20, part.box.y - 11);
    context.stroke();
    context.restore();
    right -= 12;
  }
}

/** The scales that several pictures share, above them. */
function drawShared(context: CanvasRenderingContext2D, pictures: HTMLElement, colour: string): void {
  const corner = pictures.getBoundingClientRect();
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "left";
  context.fillStyle = colour;
  for (const caption of pictures.querySelectorAll(".parts > .caption")) {
    const box = caption.getBoundingClientRect();
    const note = caption.querySelector("span")?.textContent ?? "";
    const scale = caption.parentElement?.querySelector("canvas[data-scale]")?.getAttribute("data-scale") ?? "";
    context.fillText(`${note}, ${scale}`, box.left - corner.left, box.bottom - corner.top - 6);
  }
}

function drawPart(context: CanvasRenderingContext2D, part: Part, ink: string, soft: string, mark: string): void {
  const { box } = part;
  context.font = "600 12px system-ui, sans-serif";
  context.textAlign = "left";
  context.fillStyle = ink;
  context.fillText(part.title, box.x, box.y - 7);
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = soft;
  context.textAlign = "right";
  if (part.scaleIsHere) context.fillText(part.scale, box.x + box.width, box.y - 7);
  drawLegend(context, part);
  context.drawImage(part.canvas, box.x, box.y, box.width, box.height);
  context.strokeStyle = soft;
  context.lineWidth = 0.5;
  context.strokeRect(box.x, box.y, box.width, box.height);
  for (const { text, at } of part.y) context.fillText(text, box.x - 6, box.y + at * box.height + 4);
  context.textAlign = "center";
  for (const { text, at } of part.x) context.fillText(text, box.x + at * box.width, box.y + box.height + 14);
  if (part.cursor === null) return;
  context.fillStyle = mark;
  context.fillRect(box.x + part.cursor * box.width - 0.75, box.y, 1.5, box.height);
}

/** Throws where the browser cannot make it. */
export async function drawFigure(pictures: HTMLElement, title: string): Promise<Blob> {
  const parts = partsOf(pictures);
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const canvas = document.createElement("canvas");
  const right = Math.max(pictures.clientWidth, ...parts.map(({ box }) => box.x + box.width));
  const bottom = Math.max(0, ...parts.map(({ box }) => box.y + box.height));
  canvas.width = Math.ceil(SCALE * (right + 2 * MARGIN));
  canvas.height = Math.ceil(SCALE * (bottom + BELOW + 2 * MARGIN + TITLE));
  const context = canvas.getContext("2d");
  if (!context) throw new Error("this browser draws no pictures");
  context.scale(SCALE, SCALE);
  context.imageSmoothingEnabled = false;
  context.fillStyle = colour("--ground");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = colour("--ink");
  context.font = "600 15px system-ui, sans-serif";
  context.fillText(title, MARGIN, MARGIN + 6);
  context.translate(MARGIN, MARGIN + TITLE);
  for (const part of parts) drawPart(context, part, colour("--ink"), colour("--soft"), colour("--mark"));
  drawShared(context, pictures, colour("--soft"));
  return new Promise((give, refuse) =>
    canvas.toBlob(
      (blob) => (blob ? give(blob) : refuse(new Error("the picture is too large for this browser"))),
      "image/png",
    ),
  );
}
