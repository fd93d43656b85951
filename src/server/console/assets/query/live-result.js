// Owns the view of a result without an end: its newest rows on top, and how many there were.

import { el, setText, within } from "../page/dom.js";
import { resultTable, tableRow } from "../page/result-table.js";
import { NewestRows } from "../pure/newest.js";
import { resultChart } from "./result-chart.js";

/** @import { Column, Line } from "../pure/wire.js" */

/** Milliseconds between two drawings. */
const EVERY = 200;

/** A result that grows. */
export class LiveResult {
  /** @type {Column[]} */
  #columns = [];
  #rows;
  #most;
  #title = el("h2", {});
  #warnings = el("div", {});
  #table = el("div", {});
  #below = el("div", {});
  /** @type {ReturnType<typeof setTimeout> | null} */
  #drawing = null;

  /** Whether a line has come. */
  hasBegun = false;

  nodes = [el("div", { class: "heading" }, this.#title), this.#warnings, this.#table, this.#below];

  /**
   * @param {number} most how many rows are kept
   */
  constructor(most) {
    this.#most = most;
    this.#rows = new NewestRows(most);
  }

  /**
   * How many rows there were.
   *
   * @returns {string}
   */
  get said() {
    return this.#rows.said;
  }

  /**
   * Takes a line of the answer.
   *
   * @param {Line} line
   * @returns {void}
   */
  take({ columns, rows, count, warnings = [] }) {
    this.hasBegun = true;
    this.#warnings.append(...warnings.map((warning) => el("p", { class: "note", text: warning })));
    if (columns) {
      this.#columns = columns;
      this.#table.replaceChildren(resultTable({ columns, rows: [] }, { label: "Rows, the newest first" }));
      this.#draw();
    }
    if (!rows) return;
    this.#rows.take(rows, count ?? rows.length);
    this.#drawing ??= setTimeout(() => this.#draw(), EVERY);
  }

  /**
   * Shows that no more rows come.
   *
   * @returns {void}
   */
  end() {
    if (!this.hasBegun) return;
    this.#draw();
    const rows = { columns: this.#columns, rows: this.#rows.kept };
    const chart = rows.rows.length > 0 ? resultChart(rows) : null;
    if (chart) this.#below.append(chart);
  }

  /**
   * Puts the rows on top that came since the last time; those that are too many go.
   *
   * @returns {void}
   */
  #draw() {
    if (this.#drawing !== null) clearTimeout(this.#drawing);
    this.#drawing = null;
    setText(this.#title, this.#rows.said);
    if (this.#columns.length === 0) return;
    const body = within(this.#table, "tbody");
    const fresh = this.#rows.fresh();
    body.prepend(...fresh.reverse().map((row) => tableRow(row, this.#columns)));
    while (body.children.length > this.#most) body.lastElementChild?.remove();
  }
}
