// Files are checked before they are uploaded, and an image that is pasted anywhere on the page is uploaded, too.
const problem = element.querySelector("[data-max-mb]");
const limit = Number(problem.dataset.maxMb);

// What is wrong with files that were chosen or dropped, in one sentence; empty if nothing is. Gradio checks them as
// well, but says so in words that are about any file.
function problemOf(files) {
  const [file] = files;
  const megabytes = (file?.size ?? 0) / 1e6;
  if (files.length > 1) return "Choose one image: a conversation is about one.";
  if (file && file.type !== "" && !file.type.startsWith("image/"))
    return `${file.name} is not an image: choose a JPEG, PNG or WebP file.`;
  if (megabytes > limit)
    return `${file.name} has ${megabytes.toFixed(1)} MB, more than the ${limit} MB allowed: choose a smaller file.`;
  return "";
}

window.gromaStart?.abort();
const { signal } = (window.gromaStart = new AbortController());
const early = { signal, capture: true };
const field = () => document.querySelector('#groma-file input[type="file"]');

function check(event, files) {
  problem.textContent = problemOf([...files]);
  const earlier = document.querySelector("#groma-start-status .status"); // about another file
  if (earlier) earlier.textContent = "";
  if (problem.textContent === "") return;
  event.preventDefault();
  event.stopImmediatePropagation();
}

document.addEventListener(
  "change",
  (event) => {
    if (event.target !== field() || event.target.files.length === 0) return;
    check(event, event.target.files);
    if (problem.textContent !== "") event.target.value = ""; // so that the same file can be chosen again
  },
  early,
);
document.addEventListener(
  "drop",
  (event) => {
    if (event.target.closest?.("#groma-file")) check(event, event.dataTransfer.files);
  },
  early,
);
document.addEventListener(
  "paste",
  (event) => {
    const image = [...(event.clipboardData?.files ?? [])].find((file) => file.type.startsWith("image/"));
    if (!field() || !image) return;
    event.preventDefault();
    const files = new DataTransfer();
    files.items.add(image);
    field().files = files.files;
    field().dispatchEvent(new Event("change", { bubbles: true }));
  },
  early,
);
