// Owns the editor: its text, which the browser keeps, the numbers of its lines, and the mark at an error.

import { el } from "../page/dom.js";
import { keep, read } from "../page/storage.js";
import { statementToRun } from "../pure/statement.js";

/** @import { Part } from "../pure/place.js" */

const DRAFT = "anabranch.draft";
const EXAMPLE =
  "SELECT job, batch, rows_in, rows_out, milliseconds\nFROM system.batches\nORDER BY committed_at DESC\nLIMIT 100";

/** The editor of the query view. */
export class StatementEditor {
  #text = el("textarea", {
    id: "sql", class: "sql", rows: "9", spellcheck: "false", autocapitalize: "off", autocomplete: "off", wrap: "off",
    "aria-describedby": "sql-keys",
  });
  #gutter = el("div", { class: "gutter", "aria-hidden": "true" });
  /** @type {[number, number] | null} a selection that shows where an error is, and is not to be run */
  #marked = null;

  node = el("div", { class: "editor" }, this.#gutter, this.#text);

  constructor() {
    this.#text.value = read(DRAFT) ?? EXAMPLE;
    this.#text.addEventListener("input", () => {
      this.#marked = null;
      keep(DRAFT, this.#text.value);
      this.showLines();
    });
    this.#text.addEventListener("scroll", () => this.#scrollLines());
    this.showLines();
  }

  /**
   * All of the text.
   *
   * @returns {string}
   */
  get text() {
    return this.#text.value;
  }

  /**
   * The statement that is to be run, and its offset in the text.
   *
   * @returns {{ sql: string, at: number }}
   */
  chosen() {
    const { value, selectionStart, selectionEnd } = this.#text;
    return statementToRun(value, [selectionStart, selectionEnd], this.#marked);
  }

  /**
   * Replaces the text.
   *
   * @param {string} sql
   * @returns {void}
   */
  write(sql) {
    this.#text.value = sql;
    keep(DRAFT, sql);
    this.showLines();
  }

  /**
   * Selects a part, to show that it is wrong.
   *
   * @param {Part} part
   * @returns {void}
   */
  mark({ start, end }) {
    this.#text.focus();
    this.#text.setSelectionRange(start, end);
    this.#marked = [start, end];
  }

  /**
   * Numbers the lines.
   *
   * @param {number | null} wrong the line with an error, from 1
   * @returns {void}
   */
  showLines(wrong = null) {
    const lines = this.#text.value.split("\n");
    this.#gutter.replaceChildren(...lines.map((_, at) =>
      el("span", { class: at + 1 === wrong ? "wrong" : null, text: String(at + 1) })));
    this.#scrollLines();
  }

  /**
   * Takes the focus. The numbers stand beside their lines again after the editor was not part of the page.
   *
   * @param {FocusOptions} options
   * @returns {void}
   */
  focus(options = {}) {
    this.#scrollLines();
    this.#text.focus(options);
  }

  /**
   * Whether the focus is in the editor, or nowhere.
   *
   * @returns {boolean}
   */
  mayTakeFocus() {
    return document.activeElement === this.#text || document.activeElement === document.body;
  }

  /** @returns {void} */
  #scrollLines() {
    this.#gutter.scrollTop = this.#text.scrollTop;
  }
}
