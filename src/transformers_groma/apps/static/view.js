// Keeps the end of the conversation in sight: a new question, and an answer that grows line by line. Who has scrolled
// away from the end is left where they are. What is lit and shown is the business of answer_view.js.
const NEAR = 140; // pixels by which a growing answer may have left the window
const GAP = 16;
let count = 0;

// Where the window ends for the conversation: at the question below it, where that stays in the window.
function edge() {
  const composer = document.getElementById("groma-composer");
  const isSticky = composer && getComputedStyle(composer).position === "sticky";
  return isSticky ? Math.min(composer.getBoundingClientRect().top, innerHeight) : innerHeight;
}

watch("value", () => {
  const turns = element.querySelectorAll(".groma-turn");
  const isNew = turns.length > count;
  count = turns.length;
  if (count === 0) return;
  const { top, bottom } = turns[count - 1].getBoundingClientRect();
  const below = bottom + GAP - edge();
  if (below > 0 && (isNew || below < NEAR)) scrollBy(0, Math.min(below, top - GAP));
  else if (isNew && top < GAP) scrollBy(0, top - GAP);
});
