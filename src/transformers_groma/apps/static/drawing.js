// Draws regions on the image of the answer view, and keeps them as the value of this component, in the order in which
// they were drawn; drawing_shapes.js says how they look as data.
//
// Gradio runs this each time the component appears, with `element`, `props`, `trigger` and `watch`. The answer view is
// another component, whose HTML is replaced with each word of an answer: the layer with the regions is put back when it
// is lost, and pointers are listened to on the document.

const part = (name) => element.querySelector(`.drawing-${name}`);
const list = part("regions"), form = part("form"), field = part("field"), modes = part("modes");
const tools = [...element.querySelectorAll(".drawing-tool")];
const layer = node("svg", { class: "drawing-layer", role: "group", "aria-label": "Regions that you drew" });

let regions = Array.isArray(props.value) ? props.value : [];
let tool = "box"; // also while it is off
let isOn = false;
let mode = "new"; // what a click means: "new", "more" or "not"
let current = -1; // the region that "more" and "not" are about
let action = null; // what the pointer is doing: {kind, start, region, held, x, y, slop}; "maybe" until it has moved
let focused = -1;
let asking = 0; // the timer that asks for previews
let isHandled = false; // whether the click that follows is not for the answer view
const previews = new Map(); // the regions that the model finds for points and scribbles, by image and region

// Only one drawing listens to the document, the one that appeared last.
window.gromaDrawing?.abort();
const { signal } = (window.gromaDrawing = new AbortController());

const stage = () => document.querySelector("#groma-view .groma-stage");
const previewKey = (region) => `${stage()?.querySelector("img")?.getAttribute("src")} ${keyOf(region)}`;

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
  return [clamp(x, 0, width), clamp(y, 0, height)];
}

function say(text, isError = false) {
  part("error").textContent = isError ? text : "";
  part("news").textContent = isError ? "" : text;
}

// Keeps the regions as the value, which Python reads with the next question, and asks what the model takes for those
// that are no boxes.
function publish() {
  props.value = regions.map(plain);
  clearTimeout(asking);
  asking = setTimeout(() => {
    const unknown = regions.filter((region) => region.kind !== "box" && !previews.has(previewKey(region)));
    const wanted = unknown.map((region) => ({ key: previewKey(region), region: plain(region) }));
    if (wanted.length > 0) trigger("preview", { regions: wanted });
  }, 80); // once for a key that is held down
}

function add(region) {
  if (regions.length >= MOST_REGIONS) {
    renderLayer();
    return say(`A question takes up to ${MOST_REGIONS} regions: ask about these first, or remove some.`, true);
  }
  regions = [...regions, region];
  if (region.kind === "points") current = regions.length - 1;
  publish();
  render();
  say(`Region ${regions.length} added: ${spoken(region)}.`);
}

// Takes others as the regions; what is under way with one of those that stay goes on with this one, at its new place.
function replaceRegions(others) {
  const [held, chosen, lit] = [action?.held?.number, current, focused].map((number) => regions[number]);
  regions = others;
  current = regions.indexOf(chosen);
  focused = regions.indexOf(lit);
  if (!action?.held) return;
  action.held.number = regions.indexOf(held);
  if (action.held.number < 0) action = null;
}

function remove(number) {
  const isCurrent = current === number;
  replaceRegions(regions.filter((_, index) => index !== number));
  focused = Math.min(number, regions.length - 1);
  if (isCurrent) current = regions.findLastIndex(({ kind }) => kind === "points");
  publish();
  render();
  say(`Region ${number + 1} removed; ${regions.length} left.`);
}

function change(number, region) {
  regions = regions.map((other, index) => (index === number ? region : other));
}

function changed(number) {
  publish();
  render();
  say(`Region ${number + 1}: ${spoken(regions[number])}.`);
}

// A click: a region of its own, more of the current one, or what is not part of it.
function addPoint(point, means) {
  if (means === "new") return add({ kind: "points", points: [point], labels: [1] });
  const region = regions[current];
  if (region?.kind !== "points") return say("Click on what you mean first, then on what is not part of it.", true);
  if (region.points.length >= MOST_POINTS) return say(`A region takes up to ${MOST_POINTS} clicks.`, true);
  const labels = [...region.labels, means === "more" ? 1 : 0];
  change(current, { ...region, points: [...region.points, point], labels });
  changed(current);
}

function takeBackPoint(number) {
  const { kind, points, labels } = regions[number];
  change(number, { kind, points: points.slice(0, -1), labels: labels.slice(0, -1) });
  changed(number);
}

function regionNode(region, number) {
  const unit = scale();
  const keys = { box: "move it, Shift and arrow keys resize it", points: "move its last point", scribble: "move it" };
  const help = `Arrow keys ${keys[region.kind]}, Delete removes it.`;
  return node(
    "g",
    { class: "drawing-region", tabindex: 0, role: "button", "aria-label": `Region ${number + 1}: ${spoken(region)}. ${help}` },
    ...lines(region, previews.get(previewKey(region)), unit),
    badge(region, number, unit, imageSize()),
  );
}

function renderLayer() {
  const frame = stage();
  if (!frame) return;
  if (layer.parentNode !== frame) frame.append(layer);
  const [width, height] = imageSize();
  layer.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const nodes = regions.map(regionNode);
  if (action?.kind === "draw") nodes.push(regionNode(action.region, regions.length));
  const hadFocus = layer.contains(document.activeElement);
  layer.replaceChildren(...nodes);
  if (hadFocus && nodes[focused]) nodes[focused].focus();
}

function button(text, label, onClick, name = "") {
  const made = document.createElement("button");
  made.type = "button";
  made.className = name;
  made.textContent = text;
  made.title = label;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", onClick);
  return made;
}

function listItem(region, number) {
  const item = document.createElement("li");
  const place = document.createElement("span");
  place.textContent = words(region);
  const mention = `Mention region ${number + 1}, ${spoken(region)}, in the question`;
  item.append(button(`[${number + 1}]`, mention, () => mentionRegion(number)), place);
  if (region.kind === "points" && region.points.length > 1) {
    const back = () => {
      takeBackPoint(number);
      list.children[number].querySelector(".drawing-back, .drawing-remove").focus();
    };
    item.append(button("↶", `Take back the last point of region ${number + 1}`, back, "drawing-back"));
  }
  const away = () => {
    remove(number);
    (list.querySelectorAll(".drawing-remove")[focused] || tools[0]).focus();
  };
  item.append(button("×", `Remove region ${number + 1}`, away, "drawing-remove"));
  return item;
}

function render() {
  renderLayer();
  list.replaceChildren(...regions.map(listItem));
  renderTools();
}

function renderTools() {
  for (const button of tools) button.setAttribute("aria-pressed", String(isOn && button.dataset.tool === tool));
  // On the body, as the HTML of the answer view is replaced with each word.
  document.body.classList.toggle("is-drawing", isOn && tool !== "points");
  document.body.classList.toggle("is-clicking", isOn && tool === "points");
  if (regions[current]?.kind !== "points") current = -1;
  if (current < 0) mode = "new";
  modes.hidden = !isOn || tool !== "points" || current < 0;
  for (const button of modes.children) {
    button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
    if (button.dataset.mode === "more") button.textContent = `More of [${current + 1}]`;
    if (button.dataset.mode === "not") button.textContent = `Not part of [${current + 1}]`;
  }
  const { label, placeholder, add, help } = FORMS[tool];
  part("label").textContent = label;
  part("help").textContent = help;
  field.placeholder = placeholder;
  form.querySelector("button").textContent = add;
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

// What is under a point: a corner or an edge of a box, or a point that was clicked; the one on top first.
function hold(point) {
  const near = EDGE * scale();
  for (let number = regions.length - 1; number >= 0; number -= 1) {
    const { kind, box, points } = regions[number];
    if (kind === "points" && tool === "points") {
      const index = points.findIndex(([x, y]) => Math.hypot(x - point[0], y - point[1]) < DOT * scale());
      if (index >= 0) return { kind: "point", number, index };
    }
    if (kind !== "box" || tool !== "box") continue;
    const [x1, y1, x2, y2] = box;
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
  if (!frame?.contains(event.target) || !isOn) return;
  const held = hold(pointOf(event));
  const slant = held?.sides && (held.sides[0] && held.sides[1]) === (held.sides[2] && held.sides[3]) ? "nesw" : "nwse";
  frame.style.cursor = held ? { move: "move", point: "move", resize: `${slant}-resize` }[held.kind] : "";
}

document.addEventListener(
  "pointerdown",
  (event) => {
    const isHere = stage()?.contains(event.target) && event.isPrimary && event.button === 0;
    if (!isHere || !isOn) return;
    const start = pointOf(event);
    const held = hold(start);
    const slop = event.pointerType === "touch" && tool === "points" ? TAP : CLICK;
    action = { kind: "maybe", start, held, region: held && regions[held.number], x: event.clientX, y: event.clientY, slop };
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
    const isFar = Math.hypot(event.clientX - action.x, event.clientY - action.y) >= action.slop;
    if (action.kind === "maybe" && isFar) action.kind = action.held?.kind ?? (tool === "points" ? "nothing" : "draw");
    if (action.kind === "maybe" || action.kind === "nothing") return;
    const point = pointOf(event);
    const { kind, start, held, region } = action;
    if (kind === "draw") {
      if (tool === "box") action.region = { kind: "box", box: ordered([...start, ...point]) };
      else action.region = { kind: "scribble", points: [...(region?.points ?? [start]), point] };
      return renderLayer();
    }
    if (kind === "move") change(held.number, moved(region, point[0] - start[0], point[1] - start[1], imageSize()));
    if (kind === "resize") {
      const box = region.box.map((value, side) => (held.sides[side] ? point[side % 2] : value));
      change(held.number, { ...region, box: ordered(box) });
    }
    if (kind === "point") {
      change(held.number, { ...region, points: region.points.map((other, index) => (index === held.index ? point : other)) });
    }
    renderLayer();
  },
  { signal },
);

document.addEventListener(
  "pointerup",
  (event) => {
    if (!action || !event.isPrimary) return;
    const { kind, start, held, region } = action;
    action = null;
    isHandled = kind !== "maybe" || tool === "points";
    if (kind === "draw") {
      const [x1, y1, x2, y2] = boundsOf(region), least = 2 * scale();
      const isLarge = region.kind === "box" ? x2 - x1 > least && y2 - y1 > least : x2 - x1 > least || y2 - y1 > least;
      if (isLarge) add(region.points ? { ...region, points: thinned(region.points) } : region);
      else renderLayer();
    } else if (kind === "maybe") {
      if (tool !== "points") return;
      if (held) current = held.number;
      else return addPoint(start, event.altKey ? "not" : event.shiftKey ? "more" : mode);
      renderTools();
    } else if (held) {
      if (kind === "point") current = held.number;
      changed(held.number);
    }
  },
  { signal },
);

// One of all regions, switched on in the answer view, was clicked: it becomes a region of the question, or is one no more.
document.addEventListener(
  "groma:region",
  (event) => {
    const region = { kind: "box", box: event.detail.box };
    const number = regions.findIndex((other) => other.box && words(other) === words(region));
    if (number >= 0) remove(number);
    else add(region);
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

// A click of a tool is not for the answer view.
window.addEventListener(
  "click",
  (event) => {
    if (isHandled && stage()?.contains(event.target)) event.stopImmediatePropagation();
    isHandled = false;
  },
  { signal, capture: true },
);

layer.addEventListener("focusin", (event) => {
  focused = [...layer.children].indexOf(event.target.closest(".drawing-region"));
  if (regions[focused]?.kind === "points" && focused !== current) {
    current = focused;
    renderTools();
  }
});

layer.addEventListener("keydown", (event) => {
  const number = focused;
  const region = regions[number];
  if (!region) return;
  if (event.key === "Delete" || event.key === "Backspace") {
    event.preventDefault();
    remove(number);
    (layer.children[focused] || tools[0]).focus();
    return;
  }
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!way) return;
  event.preventDefault();
  const [width, height] = imageSize();
  const dx = way[0] * (event.altKey ? 1 : width * STEP), dy = way[1] * (event.altKey ? 1 : height * STEP);
  if (region.kind === "points") {
    const last = moved({ points: region.points.slice(-1) }, dx, dy, [width, height]).points;
    change(number, { ...region, points: [...region.points.slice(0, -1), ...last] });
  } else if (region.box && event.shiftKey) {
    const [x1, y1, x2, y2] = region.box;
    change(number, { ...region, box: [x1, y1, clamp(x2 + dx, x1 + 2, width), clamp(y2 + dy, y1 + 2, height)] });
  } else {
    change(number, moved(region, dx, dy, [width, height]));
  }
  changed(number);
});

for (const button of tools) {
  button.addEventListener("click", () => {
    isOn = !isOn || tool !== button.dataset.tool;
    tool = button.dataset.tool;
    renderTools();
  });
}

for (const button of modes.children) {
  button.addEventListener("click", () => {
    mode = button.dataset.mode;
    renderTools();
  });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const size = imageSize();
  if (!size[0]) return say("Choose an image first.", true);
  const text = field.value.trim();
  const { problem, point, box, points } = readTyped(tool, text, size);
  if (problem) return say(problem, true);
  field.value = "";
  if (point) addPoint(point, mode);
  else add(box ? { kind: "box", box } : { kind: "scribble", points: thinned(points) });
  if (text === "") layer.children[point ? current : regions.length - 1]?.focus();
});

// Python clears the regions with a new image, takes away those that were asked about, and says what the model finds for
// points and scribbles.
watch("value", () => {
  const { asked, previews: known } = props.value ?? {};
  for (const { key, outline, box } of known ?? []) previews.set(key, { outline, box });
  if (known) {
    props.value = regions.map(plain);
    return renderLayer();
  }
  if (!asked && JSON.stringify(props.value) === JSON.stringify(regions.map(plain))) return; // what was just published
  replaceRegions(asked ? regions.filter((region) => !asked.some((other) => isSame(region, other))) : props.value || []);
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
  clearTimeout(asking);
  lost.disconnect();
  resized.disconnect();
  layer.remove();
});

isOn = matchMedia("(pointer: fine)").matches;
observe();
render();
