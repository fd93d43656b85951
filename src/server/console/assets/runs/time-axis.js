// Owns the axis of event time on which a range is picked, by pointer or by keyboard.

import { el, setAttribute, svg } from "../page/dom.js";
import { lanesOf, said } from "../pure/lanes.js";
import { linear } from "../pure/scale.js";
import { movedRange, rangeBetween, timeTicks } from "../pure/time-range.js";

/** @import { Span, Timeline } from "../pure/timeline.js" */

/** Pixels. */
const LEFT = 78;
const RIGHT = 14;
const LANE = 24;
const BOTTOM = 26;
const HANDLE = 7;
/** A label of the axis has at least so many pixels. */
const LABEL = 130;

const ENDS = /** @type {const} */ (["from", "to"]);
const TITLES = { from: "Beginning of the range", to: "End of the range" };

/** The axis. */
export class TimeAxis {
  #pick;
  /** @type {Timeline | null} */
  #timeline = null;
  /** @type {Span | null} */
  #range = null;
  #height = 0;
  #width = 0;
  #band = svg("rect", { class: "band" });
  #handles = { from: this.#handle("from"), to: this.#handle("to") };

  node = el("figure", { class: "time-axis" });

  /**
   * @param {(range: Span) => void} pick is called with the range that the user picks
   */
  constructor(pick) {
    this.#pick = pick;
    new ResizeObserver(() => {
      if (this.node.clientWidth !== this.#width) this.#draw();
    }).observe(this.node);
  }

  /**
   * Shows the history of a job.
   *
   * @param {Timeline} timeline
   * @returns {void}
   */
  show(timeline) {
    this.#timeline = timeline;
    this.#draw();
  }

  /**
   * Shows the range that is chosen.
   *
   * @param {Span | null} range
   * @returns {void}
   */
  select(range) {
    this.#range = range;
    this.#place();
  }

  /** @returns {void} */
  #draw() {
    const axis = this.#timeline?.axis;
    this.#width = this.node.clientWidth;
    if (!this.#timeline || !axis || this.#width === 0) return;
    const focused = ENDS.find((end) => document.activeElement === this.#handles[end]);
    const lanes = lanesOf(this.#timeline);
    this.#height = lanes.length * LANE + BOTTOM;
    const chart = svg("svg", {
      class: "chart", width: this.#width - 20, height: this.#height, viewBox: `0 0 ${this.#width - 20} ${this.#height}`,
      role: "group", "aria-label": "History of the job by event time",
    });
    const x = this.#scale();
    lanes.forEach(({ name, spans }, at) => {
      const top = at * LANE;
      chart.append(
        svg("text", { class: "label", x: 0, y: top + 16, text: name }),
        svg("line", { class: "rule", x1: LEFT, x2: x(axis.to), y1: top + LANE - 2, y2: top + LANE - 2 }));
      for (const { span, kind, part, title } of spans) {
        const high = Math.max(2, part * (LANE - 6));
        chart.append(svg("rect", {
          class: `span ${kind}`, x: x(span.from), y: top + LANE - 2 - high,
          width: Math.max(1.5, x(span.to) - x(span.from)), height: high,
        }, svg("title", { text: title })));
      }
    });
    const bottom = lanes.length * LANE;
    for (const { at, text } of timeTicks(axis, Math.max(2, Math.floor((this.#width - LEFT) / LABEL)))) {
      chart.append(
        svg("line", { class: "rule", x1: x(at), x2: x(at), y1: 0, y2: bottom }),
        svg("text", { class: "label", x: x(at), y: this.#height - 8, "text-anchor": "middle", text }));
    }
    const { watermark } = this.#timeline;
    if (watermark !== null) {
      chart.append(svg("line", { class: "watermark", x1: x(watermark), x2: x(watermark), y1: 0, y2: bottom },
        svg("title", { text: `watermark ${said(watermark)}` })));
    }
    chart.append(this.#band, this.#handles.from, this.#handles.to);
    chart.addEventListener("pointerdown", (event) => this.#drag(chart, event));
    this.node.replaceChildren(chart);
    this.#place();
    if (focused) this.#handles[focused].focus({ preventScroll: true });
  }

  /** Puts the band and its handles to their places. */
  #place() {
    const axis = this.#timeline?.axis;
    if (!axis || this.#height === 0) return;
    const x = this.#scale();
    const range = this.#range ?? axis;
    const within = (/** @type {number} */ at) => Math.min(x(axis.to), Math.max(x(axis.from), x(at)));
    const [left, right] = [within(range.from), within(range.to)];
    const high = this.#height - BOTTOM;
    setAttribute(this.#band, "visibility", this.#range ? "visible" : "hidden");
    for (const [name, value] of Object.entries({ x: left, y: 0, width: Math.max(1, right - left), height: high })) {
      setAttribute(this.#band, name, value);
    }
    for (const end of ENDS) {
      const [handle, place] = [this.#handles[end], end === "from" ? left : right];
      setAttribute(handle, "transform", `translate(${place - HANDLE / 2} 0)`);
      setAttribute(handle.querySelector("rect") ?? handle, "height", high);
      setAttribute(handle, "aria-valuemin", axis.from);
      setAttribute(handle, "aria-valuemax", axis.to);
      setAttribute(handle, "aria-valuenow", range[end]);
      setAttribute(handle, "aria-valuetext", this.#range ? said(range[end]) : "not chosen");
    }
  }

  /**
   * From times to places.
   *
   * @returns {(at: number) => number}
   */
  #scale() {
    const { from, to } = this.#timeline?.axis ?? { from: 0, to: 1 };
    return linear(from, to, LEFT, this.#width - 20 - RIGHT);
  }

  /**
   * An end of the range, which arrow keys move.
   *
   * @param {"from" | "to"} end
   * @returns {SVGGElement}
   */
  #handle(end) {
    const handle = svg("g", { class: "handle", role: "slider", tabindex: "0", "aria-label": TITLES[end] },
      svg("rect", { x: 0, y: 0, width: HANDLE, height: 10, rx: 2 }));
    handle.addEventListener("keydown", (event) => {
      const axis = this.#timeline?.axis;
      if (!axis || event.ctrlKey || event.metaKey || event.altKey) return;
      const moved = movedRange(this.#range ?? axis, end, { key: event.key, isFar: event.shiftKey }, axis);
      if (!moved) return;
      event.preventDefault();
      this.#pick(moved);
    });
    return handle;
  }

  /**
   * Picks the range from where the pointer went down to where it is: a handle keeps the other end.
   *
   * @param {SVGSVGElement} chart
   * @param {PointerEvent} event
   * @returns {void}
   */
  #drag(chart, event) {
    const axis = this.#timeline?.axis;
    if (!axis || event.button !== 0) return;
    const timeAt = (/** @type {PointerEvent} */ { clientX }) => {
      const place = clientX - chart.getBoundingClientRect().left;
      const at = linear(LEFT, this.#width - 20 - RIGHT, axis.from, axis.to)(place);
      return Math.min(axis.to, Math.max(axis.from, at));
    };
    const range = this.#range ?? axis;
    const end = ENDS.find((one) => event.target instanceof Node && this.#handles[one].contains(event.target));
    const fixed = end === "from" ? range.to : end === "to" ? range.from : timeAt(event);
    const move = (/** @type {PointerEvent} */ moved) => this.#pick(rangeBetween(fixed, timeAt(moved), axis));
    event.preventDefault();
    this.#handles[end ?? "to"].focus({ preventScroll: true });
    chart.setPointerCapture(event.pointerId);
    chart.addEventListener("pointermove", move);
    chart.addEventListener("lostpointercapture", () => chart.removeEventListener("pointermove", move), { once: true });
  }
}
