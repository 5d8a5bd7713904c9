import { at, element, enableCopyButtons, fill, percent } from "./dom.js";
import { difference, heat, lay } from "./maps.js";
import { Pad } from "./pad.js";
import { keep, key } from "./key.js";
import { ServiceError, explain, isReady, models } from "./service.js";
import { snippets } from "./snippets.js";
import { clear, compare, offer, onChoice, paintPair, second } from "./versions.js";

const MAX_CLASSES = 10;
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
let shown = null; // the result on the page
let target = null; // the class whose map is shown; null: the winning class
let against = "";
let uncropped = null; // the image before zooming in; null: not zoomed in
let running = null;
let again = false;
let inputs = 0; // number of inputs asked for: an image, the drawing pad or the camera
let saved = null;

const pad = new Pad(picture, () => {
  at("hint").hidden = true;
  at("clear").disabled = false;
  classify();
});

// The image

function draw() {
  inputs += 1;
  endInput();
  pad.open();
  Object.assign(picture, { tabIndex: 0 });
  picture.setAttribute("aria-label", "Drawing pad");
  frame.className = "frame drawing";
  overlay.width = overlay.height = 280;
  file = "drawing.png";
  at("hint").hidden = at("keys").hidden = false;
  at("draw").setAttribute("aria-pressed", "true");
  reset();
}

/** Show and classify an image, a Blob or a promise of one. Return false if the user has asked for
 * another input meanwhile. */
async function show(source, name) {
  const input = (inputs += 1);
  const blob = await source;
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    bitmap = null; // the service may support the format; if not, it returns an error
  }
  if (input !== inputs) return false;
  endInput();
  [image, file] = [blob, name];
  const [width, height] = bitmap ? [bitmap.width, bitmap.height] : [280, 280];
  for (const canvas of [picture, overlay]) [canvas.width, canvas.height] = [width, height];
  if (bitmap) picture.getContext("2d").drawImage(bitmap, 0, 0);
  // Small pictures get an overlay of a higher resolution, so that the map looks smooth.
  const overlayScale = Math.max(1, Math.ceil(560 / Math.max(width, height)));
  [overlay.width, overlay.height] = [width * overlayScale, height * overlayScale];
  frame.className = `frame photo${overlayScale > 4 ? " small-photo" : ""}`;
  picture.setAttribute("aria-label", name);
  at("hint").hidden = true;
  classify();
  return true;
}

/** End drawing or the camera. */
function endInput() {
  pad.close();
  picture.removeAttribute("tabindex");
  image = null;
  uncropped = null;
  at("keys").hidden = at("shoot").hidden = video.hidden = true;
  at("zoom").textContent = "Zoom in";
  for (const id of ["draw", "camera"]) at(id).setAttribute("aria-pressed", "false");
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
}

function reset() {
  running?.abort();
  shown = target = null;
  again = false;
  lay(overlay, null);
  say("No prediction yet.", true);
  caution({});
  at("shown").textContent = "Choose a class to see its map.";
  at("classes").replaceChildren();
  at("facts").replaceChildren();
  clear();
  at("against").disabled = at("zoom").disabled = true;
}

async function openCamera() {
  const input = (inputs += 1);
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    notice("The camera cannot be used: allow it in the browser, or choose a file.");
    return;
  }
  if (input !== inputs) {
    // Permission came late: the user has chosen an image, or a second click opens the camera.
    stream.getTracks().forEach((track) => track.stop());
    return;
  }
  endInput();
  reset();
  video.srcObject = stream;
  video.hidden = false;
  at("hint").hidden = true;
  frame.className = "frame photo";
  at("camera").setAttribute("aria-pressed", "true");
}

function takePicture() {
  const still = document.createElement("canvas");
  [still.width, still.height] = [video.videoWidth, video.videoHeight];
  still.getContext("2d").drawImage(video, 0, 0);
  show(blobOf(still), "camera.png");
}

const blobFrom = async (address) => (await fetch(address)).blob();
const blobOf = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));

/** Crop the square around the most important part and classify it; or go back. */
async function zoom() {
  if (uncropped) {
    await show(uncropped.blob, uncropped.name);
    return;
  }
  const [left, top, right, bottom] = mapOf(target).box;
  // Crops photographs like the service. The box of a drawing is one stroke, so its crop is larger.
  const margin = modelOf(shown.model).manifest.image.fit === "crop" ? 1 : 1.5;
  const most = Math.min(picture.width, picture.height);
  const side = Math.min(Math.max(right - left, bottom - top) * margin, most);
  const x = Math.min(Math.max(0, (left + right - side) / 2), picture.width - side);
  const y = Math.min(Math.max(0, (top + bottom - side) / 2), picture.height - side);
  const cut = document.createElement("canvas");
  cut.width = cut.height = Math.max(1, Math.round(side));
  cut.getContext("2d").drawImage(picture, x, y, side, side, 0, 0, cut.width, cut.height);
  const before = { blob: image ?? blobOf(picture), name: file };
  if (!(await show(blobOf(cut), "zoom.png"))) return;
  uncropped = before;
  at("zoom").textContent = "Back to the full image";
}

// The prediction

/** Classify the current image. One request runs at a time; changes meanwhile trigger another. */
async function classify() {
  if (!served.length || !(image || pad.drawn)) return;
  if (running) {
    again = true;
    return;
  }
  const request = (running = new AbortController());
  const model = at("model").value;
  try {
    const blob = image ?? (await blobOf(picture));
    const { classes, methods } = modelOf(model).manifest;
    at("layercam").disabled = !methods.includes("layercam");
    const method = at("layercam").checked && !at("layercam").disabled ? "layercam" : "cam";
    const most = Math.min(MAX_CLASSES, classes.length);
    const question = { ...versionOf(model), method, top_k: most };
    const other = second();
    const [found, rival] = await Promise.all([
      explain(blob, question, request.signal),
      other && explainOther(blob, { ...question, version: other }, request.signal),
    ]);
    // Another version may have become active since the models were listed.
    if (!describes(found.answer)) await listModels();
    if (request.signal.aborted) return;
    notice("");
    shown = { ...found, model };
    save(blob);
    offerVersions(found.answer);
    if (rival && other === second()) showPair(found.answer, rival);
    answer();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof ServiceError)) throw error;
    notice(error.message);
    if (error.gone) waitForIt();
    else reset();
    lock(error.locked);
  } finally {
    if (running === request) running = null;
    if (again && !running) {
      again = false;
      classify();
    }
  }
}

/** Ask a second version. Its error is shown beside it, and leaves the first answer on the page. */
async function explainOther(blob, question, signal) {
  try {
    return (await explain(blob, question, signal)).answer;
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    return { problem: error.message };
  }
}

function showPair(found, rival) {
  if (rival.problem) clear(rival.problem);
  else if (rival.version !== found.version) compare(found, rival, picture);
}

/** Offer the other versions of a model that answered, or will. */
function offerVersions({ model, version }) {
  const versions = served.filter((each) => each.name === model).map((each) => each.version);
  offer(versions.filter((each) => each !== version));
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
  at("against").disabled = at("zoom").disabled = false;
  const facts = [["Model", `${found.model}, version ${found.version}`]];
  const { provider, precision, precision_reason: reason, signature } = describes(found) ?? {};
  if (provider) facts.push(["Runs on", provider], [`In ${precision} because`, reason]);
  if (signature) facts.push(["Signature", signedBy(signature)]);
  for (const [stage, name] of Object.entries(STAGES)) {
    if (stage in stages) facts.push([`Time ${name}`, `${stages[stage].toFixed(1)} ms`]);
  }
  facts.push(["Time on the network", `${network.toFixed(1)} ms`]);
  at("facts").replaceChildren(
    ...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]),
  );
  paint();
}

const signedBy = ({ verified, method, key, problem }) =>
  verified ? `of a trusted ${method}, ${key.slice(0, 16)}` : `not verified: ${problem}`;

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

/** Draw the selected map, or the difference of two maps, and describe it. */
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
    ? `Red areas support ${first.target} rather than ${second.target}; blue areas the opposite.`
    : `The map shows the areas that support ${first.target}. Choose another class to see its map.`;
  for (const button of at("classes").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.index) === first.index));
  }
  paintPair(first.target, opacity);
  const { target: name, method } = first;
  const model = versionOf(shown.model);
  const code = snippets({ file, model, target: name, method, locked: key() !== "" });
  at("curl").textContent = code.curl;
  at("python").textContent = code.python;
}

const mapOf = (index) => shown.answer.cams[index ?? shown.answer.index];
/** Value of a model in the list: its name; for a version that is not the active one, both. */
const valueOf = ({ name, version, active }) => (active ? name : `${name}@${version}`);
const modelOf = (value) => served.find((each) => valueOf(each) === value);
const describes = ({ model, version }) =>
  served.find((each) => each.name === model && each.version === version);

function versionOf(value) {
  const [model, version] = value.split("@");
  return version === undefined ? { model } : { model, version };
}

async function listModels() {
  served = await models();
  const first = served.find((each) => each.default && each.active) ?? served[0];
  const chosen = modelOf(at("model").value) ?? first;
  const texts = served.map((each) => [
    valueOf(each),
    each.active ? each.name : `${each.name}, version ${each.version}`,
  ]);
  fill(at("model"), texts, valueOf(chosen));
  offerChosen();
}

function offerChosen() {
  const { name, version } = modelOf(at("model").value);
  offerVersions({ model: name, version });
}

function save(blob) {
  if (saved) URL.revokeObjectURL(saved);
  saved = URL.createObjectURL(blob);
  Object.assign(at("save"), { href: saved, download: file });
}

// Messages

function say(text, quiet = false) {
  at("verdict").textContent = text;
  at("verdict").classList.toggle("quiet", quiet);
}

/** Show the reasons not to rely on the prediction. */
function caution({ abstain, out_of_distribution: ood }) {
  const words = [];
  if (ood) words.push("Out of distribution: the image does not look like the training images.");
  if (abstain) words.push("The confidence is too low to rely on the prediction.");
  at("caution").textContent = words.join(" ");
  at("caution").hidden = !words.length;
}

function notice(text) {
  // A screen reader reads a notice again when its text is set again.
  if (at("notice").textContent !== text) at("notice").textContent = text;
  at("notice").hidden = !text;
}

// Availability of the service

let waiting = false;

async function waitForIt() {
  if (waiting) return;
  waiting = true;
  // The model of the page may answer before the service as a whole is ready, so ask it now and then.
  let ready = false;
  for (let seconds = 0; seconds < 5 && !ready; seconds += 1) {
    await new Promise((resolve) => setTimeout(resolve, 1000));
    ready = await isReady();
  }
  waiting = false;
  if (ready) notice("");
  classify();
}

async function start() {
  try {
    await listModels();
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    notice(error.message);
    lock(error.locked);
    if (!error.locked) setTimeout(start, 1000);
    return;
  }
  notice("");
  lock(false);
  showExamples();
  classify(); // the user may have drawn or chosen an image before the models were known
}

/** Ask for an API key or not. Links send no key, so they are hidden where a key is needed. */
function lock(locked) {
  at("lock").hidden = !locked;
  at("open").hidden = locked || key() !== "";
}

function showExamples() {
  const fits = served.map((each) => [each.manifest.image.fit, valueOf(each)]);
  const buttons = EXAMPLES.flatMap(([name, text, fit]) => {
    const model = fits.find(([each]) => each === fit)?.[1];
    if (model === undefined) return [];
    const button = element("button");
    const small = element("img");
    Object.assign(small, { src: `examples/${name}`, alt: text, width: 48, height: 48 });
    button.type = "button";
    button.append(small);
    button.addEventListener("click", () => {
      selectModel(model, fit);
      show(blobFrom(small.src), name);
    });
    const item = element("li");
    item.append(button);
    return [item];
  });
  at("examples").replaceChildren(...buttons);
}

/** Select a model that accepts images like this one, unless the current one does. */
function selectModel(model, fit) {
  if (modelOf(at("model").value).manifest.image.fit === fit) return;
  at("model").value = model;
  target = null;
  against = "";
  offerChosen();
}

// User input

at("lock").addEventListener("submit", (event) => {
  event.preventDefault(); // the key must not get into an address
  keep(at("key").value.trim());
  at("key").value = "";
  lock(false);
  notice("");
  if (served.length) classify();
  else start();
});
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
at("camera").addEventListener("click", openCamera);
video.addEventListener("loadeddata", () => {
  at("shoot").hidden = false;
  at("shoot").focus();
});
at("shoot").addEventListener("click", takePicture);
at("zoom").addEventListener("click", zoom);
at("opacity").addEventListener("input", paint);
at("layercam").addEventListener("change", classify);
at("model").addEventListener("change", () => {
  [target, against] = [null, ""];
  running?.abort();
  running = null;
  clear();
  offerChosen();
  classify();
});
onChoice(classify);
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
enableCopyButtons();
draw();
start();
