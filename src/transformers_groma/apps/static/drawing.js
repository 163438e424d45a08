// Draws boxes on the image of the answer view, and keeps them as the value of this component:
// [{kind: "box", box: [x1, y1, x2, y2]}, …] in pixels of the upright image, in the order in which they were drawn.
//
// Gradio runs this each time the component appears, with `element`, `props` and `watch`. The answer view is another
// component, whose HTML is replaced with each word of an answer: the layer with the boxes is put back when it is lost,
// and pointers are listened to on the document.

const SVG = "http://www.w3.org/2000/svg";
const CLICK = 4; // a pointer that moved less, in CSS pixels, has clicked
const EDGE = 7; // how near an edge or corner is taken hold of, in CSS pixels
const STEP = 0.02; // of an arrow key, as a share of the image's side; with Alt it is one pixel

const part = (name) => element.querySelector(`.drawing-${name}`);
const tool = part("tool"), list = part("regions"), form = part("form"), field = part("field");
const layer = document.createElementNS(SVG, "svg");
layer.setAttribute("class", "drawing-layer");
layer.setAttribute("role", "group");
layer.setAttribute("aria-label", "Boxes that you drew");

let regions = Array.isArray(props.value) ? props.value : [];
let action = null; // what the pointer is doing: {kind, start, box, held, x, y}; "maybe" until it has moved
let focused = -1;
let hasDragged = false;

// Only one drawing listens to the document, the one that appeared last.
window.gromaDrawing?.abort();
const { signal } = (window.gromaDrawing = new AbortController());

const stage = () => document.querySelector("#groma-view .groma-stage");

function imageSize() {
  const image = stage()?.querySelector("img");
  return image ? [Number(image.getAttribute("width")), Number(image.getAttribute("height"))] : [0, 0];
}

// Pixels of the image for one CSS pixel.
function scale() {
  const width = stage()?.getBoundingClientRect().width || 1;
  return imageSize()[0] / width;
}

function pointOf(event) {
  const frame = stage().getBoundingClientRect();
  const [width, height] = imageSize();
  const x = ((event.clientX - frame.left) / frame.width) * width;
  const y = ((event.clientY - frame.top) / frame.height) * height;
  return [Math.min(Math.max(x, 0), width), Math.min(Math.max(y, 0), height)];
}

const rounded = (box) => box.map((value) => Math.round(value * 10) / 10);
const ordered = ([x1, y1, x2, y2]) => [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];
const written = (box) => box.map((value) => Math.round(value)).join(", ");

function say(text, isError = false) {
  part("error").textContent = isError ? text : "";
  part("news").textContent = isError ? "" : text;
}

// Keeps the regions as the value, which Python reads with the next question.
function publish() {
  props.value = regions.map(({ kind, box }) => ({ kind, box: rounded(box) }));
}

function add(box) {
  regions = [...regions, { kind: "box", box }];
  publish();
  render();
  say(`Region ${regions.length} added: ${written(box)}.`);
}

function remove(number) {
  regions = regions.filter((_, index) => index !== number);
  focused = Math.min(number, regions.length - 1);
  publish();
  render();
  say(`Region ${number + 1} removed; ${regions.length} left.`);
}

function change(number, box) {
  regions = regions.map((region, index) => (index === number ? { ...region, box } : region));
  publish();
  render();
}

function node(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function boxNode(box, number) {
  const [x1, y1, x2, y2] = box;
  const [width, height] = imageSize();
  const unit = scale();
  const place = { x: x1, y: y1, width: Math.max(x2 - x1, 0), height: Math.max(y2 - y1, 0) };
  // The number stands in the upper left corner, but never outside of the image.
  const left = Math.min(Math.max(x1, 0), width - 22 * unit), top = Math.min(Math.max(y1, 0), height - 20 * unit);
  const badge = node(
    "g",
    { class: "drawing-badge", transform: `translate(${left} ${top}) scale(${unit})` },
    node("rect", { width: 20 + 8 * (String(number + 1).length - 1), height: 20, rx: 5 }),
    node("text", { x: 10 + 4 * (String(number + 1).length - 1), y: 14.5 }, String(number + 1)),
  );
  const help = "Arrow keys move it, Shift and arrow keys resize it, Delete removes it.";
  return node(
    "g",
    { class: "drawing-box", tabindex: 0, role: "button", "aria-label": `Region ${number + 1}: ${written(box)}. ${help}` },
    node("rect", { class: "drawing-halo", ...place }),
    node("rect", { class: "drawing-line", ...place }),
    badge,
  );
}

function renderLayer() {
  const frame = stage();
  if (!frame) return;
  if (layer.parentNode !== frame) frame.append(layer);
  const [width, height] = imageSize();
  layer.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const nodes = regions.map(({ box }, number) => boxNode(box, number));
  if (action?.kind === "draw") nodes.push(boxNode(ordered(action.box), regions.length));
  const hadFocus = layer.contains(document.activeElement);
  layer.replaceChildren(...nodes);
  if (hadFocus && nodes[focused]) nodes[focused].focus();
}

function render() {
  renderLayer();
  list.replaceChildren(
    ...regions.map(({ box }, number) => {
      const item = document.createElement("li");
      const mention = document.createElement("button");
      mention.type = "button";
      mention.textContent = `[${number + 1}]`;
      mention.title = "Mention it in the question";
      mention.setAttribute("aria-label", `Mention region ${number + 1}, ${written(box)}, in the question`);
      mention.addEventListener("click", () => mentionRegion(number));
      const place = document.createElement("span");
      place.textContent = written(box);
      const away = document.createElement("button");
      away.type = "button";
      away.className = "drawing-remove";
      away.textContent = "×";
      away.setAttribute("aria-label", `Remove region ${number + 1}`);
      away.addEventListener("click", () => {
        remove(number);
        (list.querySelectorAll(".drawing-remove")[focused] || tool).focus();
      });
      item.append(mention, place, away);
      return item;
    }),
  );
}

// Writes `[1]` where the cursor of the question is.
function mentionRegion(number) {
  const question = document.querySelector("#groma-question textarea");
  if (!question) return;
  const { selectionStart: start, selectionEnd: end, value } = question;
  const mark = `${start > 0 && !/\s$/.test(value.slice(0, start)) ? " " : ""}[${number + 1}]`;
  question.setRangeText(mark, start, end, "end");
  question.dispatchEvent(new Event("input", { bubbles: true }));
  question.focus();
}

const isDrawing = () => tool.getAttribute("aria-pressed") === "true";

// On the body, as the HTML of the answer view is replaced with each word.
function setDrawing(isOn) {
  tool.setAttribute("aria-pressed", String(isOn));
  document.body.classList.toggle("is-drawing", isOn);
}

// What is under a point: a corner or an edge of a region, the one on top first.
function hold(point) {
  const near = EDGE * scale();
  for (let number = regions.length - 1; number >= 0; number -= 1) {
    const [x1, y1, x2, y2] = regions[number].box;
    const inside = point[0] > x1 - near && point[0] < x2 + near && point[1] > y1 - near && point[1] < y2 + near;
    if (!inside) continue;
    const sides = [point[0] - x1, point[1] - y1, point[0] - x2, point[1] - y2].map((away) => Math.abs(away) < near);
    const corner = (sides[0] || sides[2]) && (sides[1] || sides[3]);
    if (corner) return { kind: "resize", number, sides };
    if (sides.some(Boolean)) return { kind: "move", number };
  }
  return null;
}

function showHold(event) {
  const frame = stage();
  if (!frame?.contains(event.target) || !isDrawing()) return;
  const held = hold(pointOf(event));
  const slant = held?.sides && (held.sides[0] && held.sides[1]) === (held.sides[2] && held.sides[3]) ? "nesw" : "nwse";
  frame.style.cursor = held ? { move: "move", resize: `${slant}-resize` }[held.kind] : "";
}

function moved(box, dx, dy) {
  const [width, height] = imageSize();
  const x = Math.min(Math.max(dx, -box[0]), width - box[2]), y = Math.min(Math.max(dy, -box[1]), height - box[3]);
  return [box[0] + x, box[1] + y, box[2] + x, box[3] + y];
}

document.addEventListener(
  "pointerdown",
  (event) => {
    const isHere = stage()?.contains(event.target) && event.isPrimary && event.button === 0;
    if (!isHere || !isDrawing()) return;
    const start = pointOf(event);
    const held = hold(start);
    const box = held ? regions[held.number].box : [...start, ...start];
    action = { kind: "maybe", start, box, held, x: event.clientX, y: event.clientY };
    // No text is selected, and no image dragged away. The focus stays where it is.
    event.preventDefault();
  },
  { signal },
);

document.addEventListener(
  "pointermove",
  (event) => {
    if (!event.isPrimary || !stage()) return;
    if (!action) return showHold(event);
    const isFar = Math.hypot(event.clientX - action.x, event.clientY - action.y) >= CLICK;
    if (action.kind === "maybe" && isFar) action.kind = action.held?.kind ?? "draw";
    if (action.kind === "maybe") return;
    const point = pointOf(event);
    if (action.kind === "draw") {
      action.box = [...action.start, ...point];
      renderLayer();
    } else if (action.kind === "move") {
      const box = moved(action.box, point[0] - action.start[0], point[1] - action.start[1]);
      change(action.held.number, box);
    } else {
      const box = action.box.map((value, side) => (action.held.sides[side] ? point[side % 2] : value));
      change(action.held.number, ordered(box));
    }
  },
  { signal },
);

document.addEventListener(
  "pointerup",
  (event) => {
    if (!action || !event.isPrimary) return;
    const done = action;
    action = null;
    hasDragged = done.kind !== "maybe";
    if (done.kind === "draw") {
      const box = ordered(done.box), least = 2 * scale();
      if (box[2] - box[0] > least && box[3] - box[1] > least) add(box);
      else renderLayer();
    }
  },
  { signal },
);

// One of all regions, switched on in the answer view, was clicked: it becomes a region of the question, or is one no more.
document.addEventListener(
  "groma:region",
  (event) => {
    const { box } = event.detail;
    const number = regions.findIndex((region) => written(region.box) === written(box));
    if (number >= 0) remove(number);
    else add(box);
  },
  { signal },
);

document.addEventListener(
  "pointercancel",
  () => {
    action = null;
    renderLayer();
  },
  { signal },
);

// The click at the end of a drag is none for the answer view.
window.addEventListener(
  "click",
  (event) => {
    if (hasDragged && stage()?.contains(event.target)) event.stopImmediatePropagation();
    hasDragged = false;
  },
  { signal, capture: true },
);

layer.addEventListener("focusin", (event) => {
  focused = [...layer.children].indexOf(event.target.closest(".drawing-box"));
});

layer.addEventListener("keydown", (event) => {
  const number = focused;
  if (!regions[number]) return;
  if (event.key === "Delete" || event.key === "Backspace") {
    event.preventDefault();
    remove(number);
    (layer.children[focused] || tool).focus();
    return;
  }
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!way) return;
  event.preventDefault();
  const [width, height] = imageSize();
  const dx = way[0] * (event.altKey ? 1 : width * STEP), dy = way[1] * (event.altKey ? 1 : height * STEP);
  const [x1, y1, x2, y2] = regions[number].box;
  const box = event.shiftKey
    ? [x1, y1, Math.min(Math.max(x2 + dx, x1 + 2), width), Math.min(Math.max(y2 + dy, y1 + 2), height)]
    : moved([x1, y1, x2, y2], dx, dy);
  change(number, box);
  say(`Region ${number + 1}: ${written(box)}.`);
});

tool.addEventListener("click", () => setDrawing(!isDrawing()));

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const [width, height] = imageSize();
  if (!width) return say("Choose an image first.", true);
  const text = field.value.trim();
  let box = [width / 4, height / 4, (3 * width) / 4, (3 * height) / 4];
  if (text !== "") {
    box = text.split(/[\s,;]+/).filter(Boolean).map(Number);
    if (box.length !== 4 || !box.every(Number.isFinite))
      return say(`“${text}” is not a box: write x1, y1, x2, y2 in pixels, as in 30, 40, 200, 180.`, true);
    if (box[2] <= box[0] || box[3] <= box[1])
      return say(`“${text}” is empty or inverted: x2 must be more than x1, and y2 more than y1.`, true);
    if (box[0] < 0 || box[1] < 0 || box[2] > width || box[3] > height)
      return say(`“${text}” leaves the image, which is ${width} pixels wide and ${height} high.`, true);
  }
  field.value = "";
  add(box);
  if (text === "") layer.lastElementChild?.focus();
});

// Python clears the regions with a new image, and takes away those that were asked about.
watch("value", () => {
  const asked = props.value?.asked;
  const isAsked = ({ box }) => asked.some((other) => other.every((value, side) => Math.abs(value - box[side]) < 1));
  regions = asked ? regions.filter((region) => !isAsked(region)) : props.value || [];
  if (asked) publish();
  say("");
  render();
});

// The layer comes back when the answer view is written anew, and numbers keep their size when the image changes its own.
const lost = new MutationObserver(() => {
  if (stage() && layer.parentNode !== stage()) render();
});
const resized = new ResizeObserver(renderLayer);
function observe() {
  const target = document.getElementById("groma-view");
  if (!target) return setTimeout(observe, 100);
  lost.observe(target, { childList: true, subtree: true });
  resized.observe(target);
}
signal.addEventListener("abort", () => {
  lost.disconnect();
  resized.disconnect();
  layer.remove();
});

setDrawing(matchMedia("(pointer: fine)").matches);
observe();
render();
