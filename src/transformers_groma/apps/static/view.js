// Brings a new question of the conversation into sight. What is lit and shown is the business of answer_view.js.
let count = 0;
watch("value", () => {
  const turns = element.querySelectorAll(".groma-turn");
  const isNew = turns.length > count;
  count = turns.length;
  if (!isNew || count < 2) return;
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  turns[count - 1].scrollIntoView({ block: "nearest", behavior: isCalm ? "auto" : "smooth" });
});
