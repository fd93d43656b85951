// Owns the editor: its text, which the browser keeps, its colours and completion, and the mark at an error.

import { el } from "../page/dom.js";
import { keep, read } from "../page/storage.js";
import { statementToRun } from "../pure/statement.js";
import {
  autocompletion, bracketMatching, closeCompletion, completionKeymap, EditorState, EditorView, history, historyKeymap,
  keymap, lineNumbers, standardKeymap, toggleComment,
} from "../vendor/codemirror.js";
import { complete } from "./complete.js";
import { showWrong, wrongMark } from "./wrong-mark.js";
import { sqlLanguage } from "./sql-language.js";

/** @import { Part } from "../pure/place.js" */

const DRAFT = "anabranch.draft";
const EXAMPLE =
  "SELECT job, batch, rows_in, rows_out, milliseconds\nFROM system.batches\nORDER BY committed_at DESC\nLIMIT 100";

/** Attributes of the element with the text. */
const CONTENT = {
  "id": "sql", "aria-labelledby": "query-title", "aria-describedby": "sql-keys", "spellcheck": "false",
  "autocapitalize": "off", "autocorrect": "off", "translate": "no",
};

/** The editor of the query view. */
export class StatementEditor {
  /** @type {[number, number] | null} a selection that shows where an error is, and is not to be run */
  #marked = null;
  #view = new EditorView({
    state: EditorState.create({
      doc: read(DRAFT) ?? EXAMPLE,
      extensions: [
        lineNumbers(), history(), bracketMatching(), sqlLanguage(), wrongMark(),
        autocompletion({ override: [complete], icons: false }),
        EditorState.tabSize.of(4), EditorState.lineSeparator.of("\n"),
        EditorView.contentAttributes.of(CONTENT),
        EditorView.domEventHandlers({ beforeinput: typeOverSelection }),
        EditorView.updateListener.of(({ docChanged, state }) => {
          if (!docChanged) return;
          this.#marked = null;
          keep(DRAFT, state.doc.toString());
        }),
        // Tab leaves the editor, as it does any other field.
        keymap.of([{ key: "Mod-/", run: toggleComment }, ...completionKeymap, ...historyKeymap, ...standardKeymap]),
      ],
    }),
  });

  node = el("div", { class: "editor" }, this.#view.dom);

  /**
   * All of the text.
   *
   * @returns {string}
   */
  get text() {
    return this.#view.state.doc.toString();
  }

  /**
   * The statement that is to be run, and its offset in the text.
   *
   * @returns {{ sql: string, at: number }}
   */
  chosen() {
    const { from, to } = this.#view.state.selection.main;
    return statementToRun(this.text, [from, to], this.#marked);
  }

  /**
   * Replaces the text.
   *
   * @param {string} sql
   * @returns {void}
   */
  write(sql) {
    this.#view.dispatch({ changes: { from: 0, to: this.#view.state.doc.length, insert: sql } });
  }

  /**
   * Selects a part, to show that it is wrong.
   *
   * @param {Part} part
   * @returns {void}
   */
  mark({ start, end }) {
    const most = this.#view.state.doc.length;
    const [anchor, head] = [Math.min(start, most), Math.min(end, most)];
    this.#view.focus();
    this.#view.dispatch({ selection: { anchor, head }, scrollIntoView: true });
    this.#marked = [anchor, head];
  }

  /**
   * Marks a part as wrong, and its line; nothing without a part.
   *
   * @param {Part | null} part
   * @returns {void}
   */
  showWrong(part) {
    this.#view.dispatch(showWrong(this.#view.state, part));
  }

  /**
   * Closes the list of names to choose from.
   *
   * @returns {void}
   */
  closeCompletion() {
    closeCompletion(this.#view);
  }

  /**
   * Takes the focus. The editor measures its lines again, since it may not have been part of the page.
   *
   * @param {FocusOptions} options
   * @returns {void}
   */
  focus(options = {}) {
    this.#view.requestMeasure();
    this.#view.contentDOM.focus(options);
  }

  /**
   * Whether the focus is in the editor, or nowhere.
   *
   * @returns {boolean}
   */
  mayTakeFocus() {
    return this.#view.hasFocus || document.activeElement === document.body;
  }
}

/**
 * Types over a selection. The browser would give the new text the style of the old one, as an attribute, which the
 * page does not allow.
 *
 * @param {InputEvent} event
 * @param {EditorView} view
 * @returns {boolean} whether that was done
 */
function typeOverSelection(event, view) {
  if (event.inputType !== "insertText" || event.data === null || view.state.selection.main.empty) return false;
  event.preventDefault();
  view.dispatch(view.state.replaceSelection(event.data), { userEvent: "input.type", scrollIntoView: true });
  return true;
}
