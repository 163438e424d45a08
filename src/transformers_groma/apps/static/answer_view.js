// The answer view's script: lights places and phrases, shows the places of a turn, filters regions. It serves all views
// of a page and listens on the document, so HTML that is replaced while an answer streams needs no further calls.
// What a reader chose is kept here by the id of the view, and written into the HTML again whenever that changes.
(() => {
  "use strict";
  if (window.gromaAnswerView) return;
  window.gromaAnswerView = true;

  // hovered, focused and pinned hold the key of a name ("0:n1") or place ("0:p3"), or null.
  const states = new Map();
  const TARGET = "[data-groma-name], [data-groma-place]";

  function stateOf(view) {
    if (!states.has(view.id)) {
      states.set(view.id, {
        hovered: null, focused: null, pinned: null, // lit: the first of these that is there
        turn: null, // the turn whose places are shown; null: the last one
        turns: 0,
        start: null, // the image and the first question: another one starts another conversation
        hasProposals: false,
        hasMasks: true, // places that have masks are shown as masks
        minScore: null, // null: the slider was not touched
        probed: null, // the number of the region under the pointer
        heard: new Map(), // what of each turn's answer was announced
      });
    }
    return states.get(view.id);
  }

  const views = () => document.querySelectorAll(".groma-view");
  const viewOf = (element) => element.closest(".groma-view");
  const turnOf = (key) => Number(key.split(":")[0]);
  const keyOf = (element) => element.dataset.gromaName ?? element.dataset.gromaPlace;

  function targetAt(node) {
    return node instanceof Element && viewOf(node) ? node.closest(TARGET) : null;
  }

  // What a pointer is at, as { key } of a name or place or as { region }. In the image this is the smallest outline
  // around the pointer, be it of a place or of a region, whichever is drawn above the other.
  function pointedAt(event) {
    const overlay = event.target instanceof Element && viewOf(event.target) && event.target.closest(".groma-overlay");
    if (!overlay) {
      const target = targetAt(event.target);
      return target ? { key: keyOf(target) } : {};
    }
    let smallest = null;
    let smallestArea = Infinity;
    for (const element of document.elementsFromPoint(event.clientX, event.clientY)) {
      const outline = overlay.contains(element) ? element.closest(".groma-place, [data-groma-region]") : null;
      const box = outline?.getBBox();
      if (box && box.width * box.height < smallestArea) {
        smallest = outline;
        smallestArea = box.width * box.height;
      }
    }
    if (smallest === null) return {};
    return smallest.dataset.gromaRegion ? { region: smallest } : { key: keyOf(smallest) };
  }

  // Each write first looks whether it changes anything: writes that change nothing would call the observer for ever.
  function toggle(element, name, isOn) {
    if (element.classList.contains(name) !== isOn) element.classList.toggle(name, isOn);
  }
  function setAttribute(element, name, value) {
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  }
  function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }
  function setVariable(element, name, value) {
    if (element.style.getPropertyValue(name) !== value) element.style.setProperty(name, value);
  }

  // Names and places that light up together: those of one name, or all names of one place with their places.
  function lit(view, key) {
    const names = new Set();
    const places = new Set();
    if (key === null) return { names, places };
    const all = [...view.querySelectorAll("g[data-groma-place]")];
    const namesAt = (place) => place.dataset.gromaNames.split(" ");
    const pointed = all.find((place) => place.dataset.gromaPlace === key);
    for (const name of pointed ? namesAt(pointed) : [key]) names.add(name);
    for (const place of all) {
      if (namesAt(place).some((name) => names.has(name))) places.add(place.dataset.gromaPlace);
    }
    return { names, places };
  }

  function exists(view, key) {
    return key !== null && view.querySelector(`[data-groma-name="${key}"], [data-groma-place="${key}"]`) !== null;
  }

  function show(view) {
    const state = stateOf(view);
    const turns = view.querySelectorAll(".groma-turn");
    const image = view.querySelector(".groma-image")?.getAttribute("src");
    const start = `${image} ${view.querySelector(".groma-question")?.textContent}`;
    if (turns.length !== state.turns || start !== state.start) {
      // A new question, or a new conversation: follow it, and let go of what belonged to the old one.
      if (turns.length < state.turns || start !== state.start) state.heard.clear();
      const released = { turn: null, hovered: null, focused: null, pinned: null, probed: null };
      Object.assign(state, released, { turns: turns.length, start });
    }
    for (const name of ["hovered", "focused", "pinned"]) {
      if (!exists(view, state[name])) state[name] = null;
    }
    const key = state.hovered ?? state.focused ?? state.pinned;
    const { names, places } = lit(view, key);
    const pinned = lit(view, state.pinned).names;
    const shownTurn = String(key !== null ? turnOf(key) : state.turn ?? turns.length - 1);
    const chosenTurn = String(state.turn ?? turns.length - 1);

    toggle(view, "is-lighting", key !== null);
    toggle(view, "shows-boxes", !state.hasMasks);
    const masks = view.querySelector('[data-groma-control="masks"]');
    if (masks && masks.checked !== state.hasMasks) masks.checked = state.hasMasks;
    for (const element of view.querySelectorAll("[data-groma-turn]")) {
      const turn = element.classList.contains("groma-turn") ? chosenTurn : shownTurn;
      toggle(element, "is-current", element.dataset.gromaTurn === turn);
    }
    for (const element of view.querySelectorAll("[data-groma-name]")) {
      toggle(element, "is-lit", names.has(element.dataset.gromaName));
      if (element.hasAttribute("aria-pressed")) {
        setAttribute(element, "aria-pressed", String(pinned.has(element.dataset.gromaName)));
      }
    }
    for (const element of view.querySelectorAll("[data-groma-place]")) {
      toggle(element, "is-lit", places.has(element.dataset.gromaPlace));
    }
    filter(view, state);
  }

  // All regions: which have the score, how many these are, and what the one under the pointer is.
  function filter(view, state) {
    toggle(view, "has-proposals", state.hasProposals);
    const regions = [...view.querySelectorAll("[data-groma-region]")];
    const slider = view.querySelector('[data-groma-control="score"]');
    // Another image has other scores.
    const minScore = slider ? Math.min(Math.max(state.minScore ?? 0, slider.min), slider.max) : 0;
    let count = 0;
    let probed = null;
    for (const region of regions) {
      const isIn = Number(region.dataset.gromaScore) >= minScore;
      if (isIn) count += 1;
      toggle(region, "is-out", !isIn);
      const isProbed = state.hasProposals && isIn && region.dataset.gromaRegion === state.probed;
      toggle(region, "is-probed", isProbed);
      if (isProbed) probed = region;
    }
    const write = (name, text) => {
      const output = view.querySelector(`[data-groma-output="${name}"]`);
      if (output) setText(output, text);
    };
    write("count", `${count} of ${regions.length} region${regions.length === 1 ? "" : "s"}`);
    if (slider) {
      write("score", `${minScore}%`);
      if (Number(slider.value) !== minScore) slider.value = String(minScore);
    }
    const box = view.querySelector('[data-groma-control="all"]');
    if (box && box.checked !== state.hasProposals) box.checked = state.hasProposals;
    probe(view, probed);
  }

  function probe(view, region) {
    const rail = view.querySelector(".groma-probe");
    if (!rail) return;
    toggle(rail, "is-shown", region !== null);
    if (region === null) return;
    const { width, height } = region.ownerSVGElement.viewBox.baseVal;
    const isAtTop = region.y.baseVal.value / height < 0.08;
    toggle(rail, "is-above", !isAtTop);
    toggle(rail, "is-below", isAtTop);
    setVariable(rail, "--x", `${(100 * region.x.baseVal.value) / width}%`);
    setVariable(rail, "--y", `${(100 * region.y.baseVal.value) / height}%`);
    const score = Math.round(Number(region.dataset.gromaScore));
    setText(rail.querySelector(".groma-chip"), `r${region.dataset.gromaRegion} · ${score}%`);
  }

  // Screen readers hear an answer by sentences, each once, from an element that no update replaces.
  function announcer() {
    let element = document.querySelector("body > .groma-announcer");
    if (!element) {
      element = document.createElement("div");
      element.className = "groma-announcer";
      element.setAttribute("role", "log");
      element.setAttribute("aria-live", "polite");
      document.body.append(element);
    }
    return element;
  }

  function spokenText(answer) {
    if (answer.querySelector(".groma-waiting")) return "";
    const copy = answer.cloneNode(true);
    for (const hidden of copy.querySelectorAll('[aria-hidden="true"]')) hidden.remove();
    return copy.textContent;
  }

  function announce(view, isSilent) {
    const { heard } = stateOf(view);
    for (const turn of view.querySelectorAll(".groma-turn")) {
      const number = turn.dataset.gromaTurn;
      const answer = turn.querySelector(".groma-answer");
      if (!answer) continue;
      const isPartial = answer.classList.contains("is-partial");
      const text = spokenText(answer);
      // A full stop at the end may turn out to be the point of a number.
      const sentences = text.match(/^[^]*(?:[.!?…](?=\s)|[。！？\n])/);
      const end = isPartial ? (sentences ? sentences[0].length : 0) : text.length;
      let before = heard.get(number) ?? "";
      if (!text.startsWith(before)) before = ""; // the question was asked again
      if (end <= before.length) {
        heard.set(number, before);
        continue;
      }
      heard.set(number, text.slice(0, end));
      if (isSilent) continue;
      const line = document.createElement("p");
      line.textContent = text.slice(before.length, end).trim();
      const log = announcer();
      log.append(line);
      while (log.childElementCount > 20) log.firstElementChild.remove();
    }
  }

  function change(view, changes) {
    const state = stateOf(view);
    const before = JSON.stringify(state);
    Object.assign(state, changes);
    if (JSON.stringify(state) !== before) show(view);
  }

  // Pointing with a mouse or pen. A finger does not hover: it taps, see below.
  function point(event) {
    if (event.pointerType === "touch") return;
    const { key, region } = pointedAt(event);
    for (const view of views()) {
      const isHere = view.contains(event.target);
      const probed = isHere && region ? region.dataset.gromaRegion : null;
      change(view, { hovered: isHere && key !== undefined ? key : null, probed });
    }
  }
  document.addEventListener("pointerover", point);
  // Outlines lie within each other: what is smallest changes although the pointer leaves nothing.
  document.addEventListener("pointermove", (event) => {
    if (event.target instanceof Element && event.target.closest(".groma-overlay")) point(event);
  });
  // A finger leaves with the end of each tap, before the click.
  document.documentElement.addEventListener("pointerleave", () => {
    for (const view of views()) change(view, { hovered: null, probed: null });
  });

  // Clicks and taps pin what they hit, until the next one. A region that is hit is reported, for whoever asks about it.
  document.addEventListener("click", (event) => {
    const element = event.target instanceof Element ? event.target : null;
    const { key, region } = pointedAt(event);
    for (const view of views()) {
      const isHere = view.contains(element);
      if (isHere && element.closest(".groma-controls")) continue;
      const state = stateOf(view);
      const isHit = isHere && key !== undefined;
      const changes = { pinned: isHit && key !== state.pinned ? key : null, focused: null };
      const turn = isHere ? element.closest(".groma-turn") : null;
      if (turn) changes.turn = Number(turn.dataset.gromaTurn);
      if (isHere && region) changes.probed = region.dataset.gromaRegion;
      change(view, changes);
      if (isHere && region) report(view, region);
    }
  });

  function report(view, region) {
    const { x, y, width, height } = region.getBBox();
    const detail = { viewId: view.id, id: Number(region.dataset.gromaRegion), box: [x, y, x + width, y + height] };
    document.dispatchEvent(new CustomEvent("groma:region", { detail }));
  }

  document.addEventListener("focusin", (event) => {
    const target = targetAt(event.target);
    if (target) change(viewOf(target), { focused: keyOf(target) });
  });
  document.addEventListener("focusout", (event) => {
    if (targetAt(event.target)) change(viewOf(event.target), { focused: null });
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      for (const view of views()) change(view, { hovered: null, focused: null, pinned: null, probed: null });
      return;
    }
    const target = targetAt(event.target);
    if (!target || (event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    const key = keyOf(target);
    const turn = target.closest(".groma-turn");
    const isPinned = stateOf(viewOf(target)).pinned === key;
    // Taken back, the place goes dark although the phrase still has the focus.
    const changes = isPinned ? { pinned: null, focused: null } : { pinned: key, focused: key };
    if (turn) changes.turn = Number(turn.dataset.gromaTurn);
    change(viewOf(target), changes);
  });

  document.addEventListener("input", (event) => {
    const control = event.target.dataset?.gromaControl;
    if (!control || !viewOf(event.target)) return;
    if (control === "masks") change(viewOf(event.target), { hasMasks: event.target.checked });
    if (control === "all") change(viewOf(event.target), { hasProposals: event.target.checked });
    if (control === "score") change(viewOf(event.target), { minScore: Number(event.target.value) });
  });

  function isAboutViews(mutation) {
    if (mutation.target instanceof Element && viewOf(mutation.target)) return true;
    if (mutation.target.parentElement && viewOf(mutation.target.parentElement)) return true;
    return [...mutation.addedNodes].some(
      (node) => node instanceof Element && (node.matches(".groma-view") || node.querySelector(".groma-view")),
    );
  }

  function start() {
    for (const view of views()) {
      show(view);
      announce(view, true);
    }
    announcer();
    new MutationObserver((mutations) => {
      if (!mutations.some(isAboutViews)) return;
      for (const view of views()) {
        show(view);
        announce(view, false);
      }
    }).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
  }
  if (document.body) start();
  else document.addEventListener("DOMContentLoaded", start);
})();
