// Comparison of two served versions of a model on the same image.

import { at, element, fill, percent } from "./dom.js";
import { heat, lay } from "./maps.js";

const MAX_ROWS = 5;
const LEAST = 280; // pixels of the shorter side of an overlay, so that the map looks smooth

let other = ""; // the chosen second version; "": none
let pair = null; // the two answers on the page

/** Offer the versions of a model other than the shown one; none: hide the comparison. */
export function offer(versions) {
  if (!versions.includes(other)) other = "";
  fill(at("other"), [["", "none"], ...versions.map((each) => [each, each])], other);
  at("versions").hidden = !versions.length;
  if (other === "") clear();
}

/** Return the second version; "": none is chosen. */
export const second = () => other;

/** Call `changed` when another second version is chosen. */
export function onChoice(changed) {
  at("other").addEventListener("change", (event) => {
    other = event.target.value;
    clear();
    changed();
  });
}

export function clear(text = "") {
  pair = null;
  at("pair").hidden = true;
  at("compared").textContent = text;
}

/** Show the answers of two versions: what they say, how far apart, and their maps. */
export function compare(first, rival, picture) {
  pair = [first, rival];
  at("compared").textContent = verdict(first, rival);
  at("shares").replaceChildren(...rows(first, rival));
  pair.forEach((found, side) => {
    const name = `Version ${found.version}`;
    at(`side-${side}`).textContent = `${name}: ${found.label}, ${percent(found.confidence)}`;
    at(`column-${side}`).textContent = name;
    const canvas = at(`picture-${side}`);
    [canvas.width, canvas.height] = [picture.width, picture.height];
    canvas.getContext("2d").drawImage(picture, 0, 0);
    const scale = Math.max(1, Math.ceil(LEAST / Math.min(picture.width, picture.height)));
    const overlay = at(`overlay-${side}`);
    [overlay.width, overlay.height] = [picture.width * scale, picture.height * scale];
    canvas.parentElement.classList.toggle("small-photo", scale > 4);
  });
  at("pair").hidden = false;
}

/** Draw the maps of one class, by its label, because versions may count classes differently. */
export function paintPair(label, opacity) {
  if (!pair) return;
  pair.forEach((found, side) => {
    const [picture, overlay] = [at(`picture-${side}`), at(`overlay-${side}`)];
    const map = found.cams.find((each) => each.target === label);
    const scale = overlay.width / picture.width;
    lay(overlay, map ? heat(map.values, opacity) : null, found.view.map((edge) => edge * scale));
    overlay.dataset.shows = map ? label : "";
    const shows = map ? `map of ${label}` : `no map, for it has no class ${label}`;
    picture.setAttribute("aria-label", `Version ${found.version}: ${shows}`);
  });
  at("maps-of").textContent =
    `The maps show the areas that support ${label}. Each has its own scale: compare where they are, not how strong.`;
}

function verdict(first, rival) {
  const [name, against] = [first, rival].map((each) => `version ${each.version}`);
  if (first.label !== rival.label) {
    return `The versions disagree: ${name} says ${first.label}, ${against} says ${rival.label}.`;
  }
  const apart = first.confidence - rival.confidence;
  if (Math.abs(apart) < 0.0005) return `Both say ${first.label}, equally confident.`;
  const more = apart > 0 ? name : against;
  return `Both say ${first.label}; ${more} is ${points(Math.abs(apart))} percentage points more confident.`;
}

/** Rows of the most probable classes of both: the shares, and the difference. */
function rows(first, rival) {
  const shares = [first, rival].map(
    ({ scores }) => new Map(scores.map(({ label, probability }) => [label, probability])),
  );
  const labels = [...new Set(shares.flatMap((each) => [...each.keys()]))];
  const highest = (label) => Math.max(...shares.map((each) => each.get(label) ?? 0));
  labels.sort((a, b) => highest(b) - highest(a));
  return labels.slice(0, MAX_ROWS).map((label) => {
    const [a, b] = shares.map((each) => each.get(label));
    const head = element("th", label);
    head.scope = "row";
    const line = element("tr");
    line.append(head, ...[a, b].map((share) => element("td", share === undefined ? "–" : percent(share))));
    line.append(element("td", a === undefined || b === undefined ? "–" : signed(b - a)));
    return line;
  });
}

const points = (share) => (100 * share).toFixed(1);

function signed(share) {
  const text = points(Math.abs(share));
  if (text === "0.0") return "0.0";
  return `${share > 0 ? "+" : "−"}${text}`;
}
