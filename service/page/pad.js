// Drawing pad for mouse, touch, pen or arrow keys.

const WIDTH = 22;
const STEP = 10;

/** Drawing pad on `canvas`; `changed` is called after every stroke. */
export class Pad {
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    this.active = false;
    this.drawn = false; // true from the first stroke until the pad is emptied or closed
    this.last = null;
    this.keyboard = { x: 140, y: 140, down: false };
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => { this.last = null; });
    }
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  /** Start with an empty pad. */
  open() {
    this.active = true;
    this.drawn = false;
    this.canvas.width = this.canvas.height = 280;
    this.keyboard = { x: 140, y: 140, down: false };
    const context = this.canvas.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, 280, 280);
  }

  close() {
    this.active = this.drawn = false;
    this.last = null;
  }

  begin(event) {
    if (!this.active || event.button !== 0) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.last = this.place(event);
    this.line(this.last, this.last);
  }

  move(event) {
    if (!this.active || this.last === null) return;
    // Fast strokes have several pointer moves between two frames.
    const moves = event.getCoalescedEvents?.() ?? [];
    for (const each of moves.length ? moves : [event]) {
      const next = this.place(each);
      this.line(this.last, next);
      this.last = next;
    }
  }

  key(event) {
    if (!this.active) return;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const pen = this.keyboard;
    if (event.key === " ") {
      pen.down = !pen.down;
      if (pen.down) this.line(pen, pen);
    } else if (event.key in steps) {
      const [dx, dy] = steps[event.key];
      const next = { x: clamp(pen.x + dx * STEP), y: clamp(pen.y + dy * STEP) };
      if (pen.down) this.line(pen, next);
      [pen.x, pen.y] = [next.x, next.y];
    } else {
      return;
    }
    event.preventDefault();
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: (event.clientX - box.left) * (this.canvas.width / box.width),
      y: (event.clientY - box.top) * (this.canvas.height / box.height),
    };
  }

  line(from, to) {
    const context = this.canvas.getContext("2d");
    context.strokeStyle = "#111";
    context.lineWidth = WIDTH;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x, to.y + (from === to ? 0.01 : 0));
    context.stroke();
    this.drawn = true;
    this.changed();
  }
}

function clamp(value) {
  return Math.min(270, Math.max(10, value));
}
