// Boxes, points and scribbles as data, in pixels of the image, and how they look. drawing.js follows in the same script:
// {kind: "box", box: [x1, y1, x2, y2]}, {kind: "points", points: [[x, y], …], labels: [1, 0, …]} (0: not part of the
// region) and {kind: "scribble", points: [[x, y], …]}.

const CLICK = 4; // a mouse that moved less, in CSS pixels, has clicked
const TAP = 14; // the same for a finger
const EDGE = 7; // how near an edge or corner is taken hold of, in CSS pixels
const DOT = 10; // the same for a point
const STEP = 0.02; // of an arrow key, as a share of the image's side; with Alt it is one pixel

const SVG = "http://www.w3.org/2000/svg";
const MOST_REGIONS = 30; // of a question; drawn_regions.py has the same
const MOST_POINTS = 64; // of a region; point_inputs.py has the same
const MOST_SCRIBBLED = 60; // points of a scribble: a longer one is drawn with fewer, evenly taken

// What the field beside the tools takes, for each kind.
const FORMS = {
  box: {
    label: "Box in pixels",
    placeholder: "x1, y1, x2, y2",
    add: "Add box",
    help: "Left, top, right and bottom edge. Empty: a box in the middle of the image, to be moved with the arrow keys.",
  },
  points: {
    label: "Point in pixels",
    placeholder: "x, y",
    add: "Add point",
    help: "Distance from the left and from the top. Empty: a point in the middle, to be moved with the arrow keys.",
  },
  scribble: {
    label: "Scribble in pixels",
    placeholder: "x, y, x, y, …",
    add: "Add scribble",
    help: "Two points or more, each its distance from the left and from the top. Empty: a line in the middle.",
  },
};

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const rounded = (value) => Math.round(value * 10) / 10;
const whole = (values) => values.map((value) => Math.round(value)).join(", ");
const ordered = ([x1, y1, x2, y2]) => [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];

// A region as Python reads it. Points in the first pixel alone would be taken for fractions of the image.
function plain({ kind, box, points, labels }) {
  if (kind === "box") return { kind, box: box.map(rounded) };
  const least = points.every((point) => Math.max(...point) <= 1) ? 1.1 : 0;
  const shape = { kind, points: points.map((point) => point.map((value) => rounded(Math.max(value, least)))) };
  return labels ? { ...shape, labels } : shape;
}

const keyOf = (region) => JSON.stringify(plain(region));

// In the list of regions.
function words({ kind, box, points }) {
  if (kind === "box") return whole(box);
  if (kind === "scribble") return "scribble";
  return points.length === 1 ? `at ${whole(points[0])}` : `${points.length} points`;
}

// Read out.
function spoken(region) {
  const { kind, points, labels } = region;
  if (kind === "box") return words(region);
  if (kind === "scribble") return `scribble from ${whole(points[0])} to ${whole(points.at(-1))}`;
  return points.map((point, index) => `${labels[index] ? "point" : "not this:"} ${whole(point)}`).join("; ");
}

// The box around a region.
function boundsOf({ box, points }) {
  if (box) return box;
  const xs = points.map(([x]) => x), ys = points.map(([, y]) => y);
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

// A region moved as far as the image goes.
function moved(region, dx, dy, [width, height]) {
  const [x1, y1, x2, y2] = boundsOf(region);
  const x = clamp(dx, -x1, width - x2), y = clamp(dy, -y1, height - y2);
  if (region.box) return { ...region, box: [x1 + x, y1 + y, x2 + x, y2 + y] };
  return { ...region, points: region.points.map(([left, top]) => [left + x, top + y]) };
}

// Whether two regions are the same to the pixel.
function isSame(one, other) {
  const numbers = (region) => [region.kind, ...(region.box ?? region.points).flat(), ...(region.labels ?? [])];
  const [first, second] = [numbers(one), numbers(other)];
  const isNear = (value, index) => value === second[index] || Math.abs(value - second[index]) < 1;
  return first.length === second.length && first.every(isNear);
}

// At most MOST_SCRIBBLED points of a long line, its ends among them.
function thinned(points) {
  if (points.length <= MOST_SCRIBBLED) return points;
  const step = (points.length - 1) / (MOST_SCRIBBLED - 1);
  return Array.from({ length: MOST_SCRIBBLED }, (_, index) => points[Math.round(index * step)]);
}

// What was typed, as numbers: {box}, {point} or {points}, or {problem} in a sentence. Empty: something in the middle.
function readTyped(kind, text, [width, height]) {
  if (text === "") {
    if (kind === "box") return { box: [width / 4, height / 4, (3 * width) / 4, (3 * height) / 4] };
    if (kind === "points") return { point: [width / 2, height / 2] };
    return { points: [[width / 4, height / 2], [(3 * width) / 4, height / 2]] };
  }
  const values = text.split(/[\s,;]+/).filter(Boolean).map(Number);
  const isRead = values.every(Number.isFinite);
  const isOut = values.some((value, index) => value < 0 || value > (index % 2 ? height : width));
  const problem = `“${text}” leaves the image, which is ${width} pixels wide and ${height} high.`;
  if (kind === "box") {
    if (values.length !== 4 || !isRead)
      return { problem: `“${text}” is not a box: write x1, y1, x2, y2 in pixels, as in 30, 40, 200, 180.` };
    if (values[2] <= values[0] || values[3] <= values[1])
      return { problem: `“${text}” is empty or inverted: x2 must be more than x1, and y2 more than y1.` };
    return isOut ? { problem } : { box: values };
  }
  if (kind === "points") {
    if (values.length !== 2 || !isRead)
      return { problem: `“${text}” is not a point: write x, y in pixels, as in 120, 80.` };
    return isOut ? { problem } : { point: values };
  }
  if (values.length < 4 || values.length % 2 || !isRead)
    return { problem: `“${text}” is not a scribble: write two points or more in pixels, as in 30, 40, 90, 60.` };
  const points = values.filter((_, index) => index % 2 === 0).map((x, index) => [x, values[2 * index + 1]]);
  return isOut ? { problem } : { points };
}

function node(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function rectangle(name, [x1, y1, x2, y2]) {
  return node("rect", { class: name, x: x1, y: y1, width: Math.max(x2 - x1, 0), height: Math.max(y2 - y1, 0) });
}

// A point: plus on the region, minus beside it, so that nobody needs the colours.
function dot([x, y], label, unit) {
  return node(
    "g",
    { class: label ? "drawing-dot" : "drawing-dot is-not", transform: `translate(${x} ${y}) scale(${unit})` },
    node("circle", { r: 7.5 }),
    node("path", { d: label ? "M-4 0H4M0-4V4" : "M-4 0H4" }),
  );
}

// The number of a region, never outside of the image.
function badge(region, number, unit, [width, height]) {
  const text = String(number + 1);
  const [x, y] = region.box ? region.box : [region.points[0][0] + 9 * unit, region.points[0][1] - 26 * unit];
  const left = clamp(x, 0, width - 22 * unit), top = clamp(y, 0, height - 20 * unit);
  const more = text.length - 1;
  return node(
    "g",
    { class: "drawing-badge", transform: `translate(${left} ${top}) scale(${unit})` },
    node("rect", { width: 20 + 8 * more, height: 20, rx: 5 }),
    node("text", { x: 10 + 4 * more, y: 14.5 }, text),
  );
}

// The lines of a region. `preview` is what the model finds for it: {outline, box}, the outline null for a box alone.
function lines(region, preview, unit) {
  const { kind, box, points, labels } = region;
  if (kind === "box") return [rectangle("drawing-halo", box), rectangle("drawing-line", box)];
  const shown = [];
  if (preview?.outline) shown.push(node("path", { class: "drawing-mask", d: preview.outline }));
  else if (preview) shown.push(rectangle("drawing-taken", preview.box));
  if (kind === "points") return [...shown, ...points.map((point, index) => dot(point, labels[index], unit))];
  const path = `M${points.map((point) => point.join(" ")).join("L")}`;
  return [...shown, node("path", { class: "drawing-halo", d: path }), node("path", { class: "drawing-stroke", d: path })];
}
