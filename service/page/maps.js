// Draws class activation maps as colours over a picture.

// Five colours of the turbo colour map, interpolated linearly.
const RISING = [[48, 18, 59], [40, 188, 235], [164, 252, 60], [251, 126, 33], [122, 4, 3]];
const FOR = [178, 34, 24];
const AGAINST = [25, 84, 166];
const PIXELS_PER_CELL = 12;

/** Colour the map of a class (rows of numbers); positions without support are transparent. */
export function heat(values, opacity) {
  const peak = Math.max(...values.flat());
  const least = peak > 0 ? 0 : Math.min(...values.flat());
  const span = peak - least || 1;
  return tinted(values, (value) => {
    const level = Math.min(1, Math.max(0, (value - least) / span));
    return [...between(RISING, level), 255 * opacity * Math.sqrt(level)];
  });
}

/** Colour the difference of two maps: red supports the first class, blue the second. */
export function difference(first, second, opacity) {
  const values = first.map((row, y) => row.map((value, x) => value - second[y][x]));
  const most = Math.max(...values.flat().map(Math.abs)) || 1;
  return tinted(values, (value) => {
    const level = Math.max(-1, Math.min(1, value / most));
    return [...(level > 0 ? FOR : AGAINST), 255 * opacity * Math.abs(level)];
  });
}

/** Draw `tint` over `view` of a canvas: left, top, right, bottom in pixels of the picture. */
export function lay(canvas, tint, view) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!tint) return;
  const [left, top, right, bottom] = view;
  context.imageSmoothingQuality = "high";
  context.drawImage(tint, left, top, right - left, bottom - top);
}

function tinted(values, colour) {
  const [rows, columns] = [values.length, values[0].length];
  const tint = document.createElement("canvas");
  [tint.width, tint.height] = [columns * PIXELS_PER_CELL, rows * PIXELS_PER_CELL];
  const context = tint.getContext("2d");
  const image = context.createImageData(tint.width, tint.height);
  for (let y = 0; y < tint.height; y += 1) {
    for (let x = 0; x < tint.width; x += 1) {
      const value = bilinear(values, (y + 0.5) / PIXELS_PER_CELL - 0.5, (x + 0.5) / PIXELS_PER_CELL - 0.5);
      image.data.set(colour(value), 4 * (y * tint.width + x));
    }
  }
  context.putImageData(image, 0, 0);
  return tint;
}

function bilinear(values, y, x) {
  const [bottom, right] = [values.length - 1, values[0].length - 1];
  const [y0, x0] = [Math.floor(y), Math.floor(x)];
  const at = (row, column) =>
    values[Math.min(bottom, Math.max(0, row))][Math.min(right, Math.max(0, column))];
  const mix = (a, b, share) => a + (b - a) * share;
  return mix(
    mix(at(y0, x0), at(y0, x0 + 1), x - x0),
    mix(at(y0 + 1, x0), at(y0 + 1, x0 + 1), x - x0),
    y - y0,
  );
}

function between(colours, level) {
  const place = level * (colours.length - 1);
  const lower = Math.min(colours.length - 2, Math.floor(place));
  return colours[lower].map((c, i) => c + (colours[lower + 1][i] - c) * (place - lower));
}
