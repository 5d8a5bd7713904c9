import { at, element, fill, letCopy, percent } from "./dom.js";
import { difference, heat, lay } from "./maps.js";
import { Pad } from "./pad.js";
import { Refusal, explain, isReady, models } from "./service.js";
import { snippets } from "./snippets.js";

const MOST_CLASSES = 10;
const EXAMPLES = [
  ["seven.png", "A handwritten 7", "ink"],
  ["two.png", "A handwritten 2", "ink"],
  ["cat.png", "A cat", "crop"],
];
const STAGES = { decode: "reading the image", queue: "in the queue", compute: "computing" };

const [picture, overlay, frame, video] = ["picture", "overlay", "frame", "video"].map(at);

let served = [];
let image = null; // a Blob, or null where the drawing is the image
let file = "image.png";
let shown = null; // the answer on the page
let target = null; // the class whose map is shown; null: the winner's
let against = "";
let trail = []; // what to go back to after looking closer
let running = null;
let again = false;
let stream = null;
let saved = null;

const pad = new Pad(picture, () => {
  at("hint").hidden = true;
  at("clear").disabled = false;
  look();
});

// The image

function draw() {
  leave();
  pad.open();
  Object.assign(picture, { tabIndex: 0 });
  picture.setAttribute("aria-label", "Sheet to draw on");
  frame.className = "frame drawing";
  overlay.width = overlay.height = 280;
  file = "drawing.png";
  at("hint").hidden = at("keys").hidden = false;
  at("draw").setAttribute("aria-pressed", "true");
  forget();
}

async function show(blob, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    bitmap = null; // the service may know the format, and says so where it doesn't
  }
  leave();
  [image, file] = [blob, name];
  const [width, height] = bitmap ? [bitmap.width, bitmap.height] : [280, 280];
  for (const canvas of [picture, overlay]) [canvas.width, canvas.height] = [width, height];
  if (bitmap) picture.getContext("2d").drawImage(bitmap, 0, 0);
  // A map of few cells over few pixels is drawn finer than the picture is.
  const finer = Math.max(1, Math.ceil(560 / Math.max(width, height)));
  [overlay.width, overlay.height] = [width * finer, height * finer];
  frame.className = `frame photo${finer > 4 ? " small-photo" : ""}`;
  picture.setAttribute("aria-label", name);
  at("hint").hidden = true;
  look();
}

/** Leave drawing or the camera. */
function leave() {
  pad.close();
  picture.removeAttribute("tabindex");
  image = null;
  trail = [];
  at("keys").hidden = at("shoot").hidden = video.hidden = true;
  at("closer").textContent = "Look closer";
  for (const id of ["draw", "camera"]) at(id).setAttribute("aria-pressed", "false");
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
}

function forget() {
  running?.abort();
  shown = target = null;
  again = false;
  lay(overlay, null);
  say("Nothing yet.", true);
  caution({});
  at("shown").textContent = "Choose a class to see what speaks for it.";
  at("classes").replaceChildren();
  at("facts").replaceChildren();
  at("against").disabled = at("closer").disabled = true;
}

async function film() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    notice("The camera cannot be used: allow it in the browser, or choose a file.");
    return;
  }
  const opened = stream;
  leave();
  stream = opened;
  forget();
  video.srcObject = stream;
  video.hidden = at("shoot").hidden = false;
  at("hint").hidden = true;
  frame.className = "frame photo";
  at("camera").setAttribute("aria-pressed", "true");
  await video.play();
  at("shoot").focus();
}

async function shoot() {
  const still = document.createElement("canvas");
  [still.width, still.height] = [video.videoWidth, video.videoHeight];
  still.getContext("2d").drawImage(video, 0, 0);
  show(await blobOf(still), "camera.png");
}

const blobOf = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));

/** Cut the square around what mattered out of the image, and look at that; or go back. */
async function closer() {
  if (trail.length) {
    const [before] = trail;
    await show(before.blob, before.name);
    return;
  }
  const [left, top, right, bottom] = mapOf(target).box;
  // As the service cuts photographs; of a drawing, whose box holds a stroke, some of the rest too.
  const margin = modelOf(shown.model).manifest.image.fit === "crop" ? 1 : 1.5;
  const most = Math.min(picture.width, picture.height);
  const side = Math.min(Math.max(right - left, bottom - top) * margin, most);
  const x = Math.min(Math.max(0, (left + right - side) / 2), picture.width - side);
  const y = Math.min(Math.max(0, (top + bottom - side) / 2), picture.height - side);
  const cut = document.createElement("canvas");
  cut.width = cut.height = Math.max(1, Math.round(side));
  cut.getContext("2d").drawImage(picture, x, y, side, side, 0, 0, cut.width, cut.height);
  const before = { blob: image ?? (await blobOf(picture)), name: file };
  await show(await blobOf(cut), "closer.png");
  trail = [before];
  at("closer").textContent = "Back to all of it";
}

// The answer

/** Ask about the present image: one question at a time, and then about what it has become. */
async function look() {
  if (!image && !pad.active) return;
  if (running) {
    again = true;
    return;
  }
  const asking = (running = new AbortController());
  const model = at("model").value;
  try {
    const blob = image ?? (await blobOf(picture));
    const { classes, methods } = modelOf(model).manifest;
    at("fine").disabled = !methods.includes("layercam");
    const method = at("fine").checked && !at("fine").disabled ? "layercam" : "cam";
    const most = Math.min(MOST_CLASSES, classes.length);
    const found = await explain(blob, { model, method, top_k: most }, asking.signal);
    if (asking.signal.aborted) return;
    notice("");
    shown = { ...found, model };
    save(blob);
    answer();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Refusal)) throw error;
    notice(error.message);
    if (error.gone) waitForIt();
    else forget();
  } finally {
    if (running === asking) running = null;
    if (again && !running) {
      again = false;
      look();
    }
  }
}

function answer() {
  const { answer: found, stages, network } = shown;
  const top = found.scores[0];
  const unsure = found.abstain ?? top.probability < 0.5;
  say(`${unsure ? "Perhaps " : ""}${top.label}, ${percent(top.probability)}`);
  caution(found);
  at("classes").replaceChildren(...found.scores.map(row));
  const others = [["", "nothing"], ...found.cams.map((cam) => [String(cam.index), cam.target])];
  fill(at("against"), others, against);
  at("against").disabled = at("closer").disabled = false;
  const facts = [["Model", `${found.model}, version ${found.version}`]];
  facts.push(["Runs on", modelOf(found.model).provider]);
  for (const [stage, name] of Object.entries(STAGES)) {
    if (stage in stages) facts.push([`Time ${name}`, `${stages[stage].toFixed(1)} ms`]);
  }
  facts.push(["Time on the network", `${network.toFixed(1)} ms`]);
  at("facts").replaceChildren(
    ...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]),
  );
  paint();
}

function row(score) {
  const button = element("button");
  const bar = element("span");
  bar.className = "bar";
  bar.style.width = `${100 * score.probability}%`;
  const share = element("span", percent(score.probability));
  share.className = "share";
  button.type = "button";
  button.dataset.index = score.index;
  button.append(bar, element("span", score.label), share);
  button.addEventListener("click", () => {
    target = score.index;
    paint();
  });
  const item = element("li");
  item.append(button);
  return item;
}

/** Draw the map that is wanted, and say which it is. */
function paint() {
  if (!shown) return;
  const first = mapOf(target);
  const second = against === "" ? null : mapOf(Number(against));
  const opacity = Number(at("opacity").value) / 100;
  const scale = overlay.width / picture.width;
  const view = shown.answer.view.map((edge) => edge * scale);
  const compared = second && second.index !== first.index;
  const tint = compared
    ? difference(first.values, second.values, opacity)
    : heat(first.values, opacity);
  lay(overlay, tint, view);
  overlay.dataset.shows = compared ? `${first.target} against ${second.target}` : first.target;
  at("shown").textContent = compared
    ? `Red speaks for ${first.target} rather than ${second.target}, blue the other way round.`
    : `The map shows what speaks for ${first.target}. Choose another class to see its own.`;
  for (const button of at("classes").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.index) === first.index));
  }
  const code = snippets({ file, model: shown.model, target: first.target, method: first.method });
  at("curl").textContent = code.curl;
  at("python").textContent = code.python;
}

const mapOf = (index) => shown.answer.cams[index ?? shown.answer.index];
const modelOf = (name) => served.find((each) => each.name === name);

function save(blob) {
  if (saved) URL.revokeObjectURL(saved);
  saved = URL.createObjectURL(blob);
  Object.assign(at("save"), { href: saved, download: file });
}

// Words

function say(text, quiet = false) {
  at("verdict").textContent = text;
  at("verdict").classList.toggle("quiet", quiet);
}

/** What the model says of how far to rely on it. */
function caution({ abstain, out_of_distribution: strange }) {
  const words = [];
  if (strange) words.push("This does not look like the images it was trained on.");
  if (abstain) words.push("It is too unsure for its answer to be relied on.");
  at("caution").textContent = words.join(" ");
  at("caution").hidden = !words.length;
}

function notice(text) {
  at("notice").textContent = text;
  at("notice").hidden = !text;
}

// The service comes and goes

let waiting = false;

async function waitForIt() {
  if (waiting) return;
  waiting = true;
  while (!(await isReady())) await new Promise((resolve) => setTimeout(resolve, 1000));
  waiting = false;
  notice("");
  if (served.length) look();
  else start();
}

async function start() {
  try {
    served = await models();
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    notice(error.message);
    waitForIt();
    return;
  }
  const first = served.find((each) => each.default) ?? served[0];
  fill(at("model"), served.map((each) => [each.name, each.name]), first.name);
  offerExamples();
  draw();
}

function offerExamples() {
  const fits = served.map((each) => [each.manifest.image.fit, each.name]);
  const buttons = EXAMPLES.flatMap(([name, text, fit]) => {
    const model = fits.find(([each]) => each === fit)?.[1];
    if (model === undefined) return [];
    const button = element("button");
    const small = element("img");
    Object.assign(small, { src: `examples/${name}`, alt: text, width: 48, height: 48 });
    button.type = "button";
    button.append(small);
    button.addEventListener("click", async () => {
      use(model, fit);
      show(await (await fetch(small.src)).blob(), name);
    });
    const item = element("li");
    item.append(button);
    return [item];
  });
  at("examples").replaceChildren(...buttons);
}

/** Turn to a model that takes images like this one, unless the present one does. */
function use(model, fit) {
  if (modelOf(at("model").value).manifest.image.fit === fit) return;
  at("model").value = model;
  target = null;
  against = "";
}

// What a person does

at("draw").addEventListener("click", () => {
  draw();
  picture.focus();
});
at("clear").addEventListener("click", draw);
at("choose").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", (event) => {
  const [chosen] = event.target.files;
  event.target.value = "";
  if (chosen) show(chosen, chosen.name);
});
at("camera").addEventListener("click", film);
at("shoot").addEventListener("click", shoot);
at("closer").addEventListener("click", closer);
at("opacity").addEventListener("input", paint);
at("fine").addEventListener("change", look);
at("model").addEventListener("change", () => {
  [target, against] = [null, ""];
  running?.abort();
  running = null;
  if (shown) look();
});
at("against").addEventListener("change", (event) => {
  against = event.target.value;
  paint();
});
document.addEventListener("paste", (event) => {
  const pasted = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
  if (pasted) show(pasted, pasted.name || "pasted.png");
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  frame.classList.add("dropping");
});
document.addEventListener("dragleave", () => frame.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  frame.classList.remove("dropping");
  const [dropped] = event.dataTransfer.files;
  if (dropped) show(dropped, dropped.name);
});
letCopy();
start();
