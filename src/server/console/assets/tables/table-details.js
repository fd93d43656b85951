// Owns the details of one table: its columns and its definition.

import { el } from "../page/dom.js";
import { announce, problem } from "../page/notices.js";
import { resultTable } from "../page/result-table.js";
import { path } from "../pure/route.js";
import { quoted } from "../pure/statement.js";
import { get } from "../server/api.js";

/**
 * Shows a table. One that cannot be opened now has its definition all the same.
 *
 * @param {HTMLElement} shown
 * @param {string} name
 * @param {(sql: string) => void} openQuery opens the editor with a statement
 * @returns {Promise<void>}
 */
export async function showTable(shown, name, openQuery) {
  const columns = el("div", {}, el("p", { class: "empty", text: "reading…" }));
  const definition = el("div", {});
  const query = el("button", {
    type: "button", text: "Query", on: { click: () => openQuery(`SELECT * FROM ${quoted(name)} LIMIT 100`) },
  });
  shown.append(
    el("div", { class: "heading" }, el("h2", { text: name }), el("div", { class: "buttons" }, query)),
    columns, definition);
  const below = `/tables${path(name)}`;
  const label = `Columns of ${name}`;
  await Promise.all([
    put(columns, async () => resultTable(await get(`${below}/columns`), { label, hasTypes: false })),
    put(definition, async () => code((await get(`${below}/definition`)).definition)),
  ]);
}

/**
 * Puts an element, or the error that making it throws, into a place.
 *
 * @param {HTMLElement} place
 * @param {() => Promise<HTMLElement>} make
 * @returns {Promise<void>}
 */
async function put(place, make) {
  try {
    place.replaceChildren(await make());
  } catch (error) {
    place.replaceChildren(problem(error));
  }
}

/**
 * A definition, with a button that copies it.
 *
 * @param {string} text
 * @returns {HTMLElement}
 */
function code(text) {
  const copy = el("button", { type: "button", class: "quiet", text: "Copy", on: {
    async click() {
      try {
        await navigator.clipboard.writeText(text);
        announce("copied");
      } catch {
        announce("the browser does not let it be copied", true);
      }
    },
  } });
  return el("div", {},
    el("div", { class: "heading" }, el("h3", { text: "Definition" }), el("div", { class: "buttons" }, copy)),
    el("pre", { class: "code", tabindex: "0", text }));
}
