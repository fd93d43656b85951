// Owns a part of a view that is read only while it is open.

import { Refused } from "../pure/answers.js";
import { AT_ONCE, eased } from "../pure/eased.js";
import { get } from "../server/api.js";
import { el } from "./dom.js";
import { problem } from "./notices.js";
import { closedPart } from "./view.js";

/**
 * `load` reads the part if `mark`, which stands for a state of its data, is another than before.
 *
 * @typedef {{ node: HTMLElement, load: (mark: string) => Promise<void> }} Part
 */

/**
 * A part that is read when it is opened, and again when something is new while it is open.
 *
 * @param {string} title
 * @param {string} address below `/api`
 * @param {() => void} again refreshes the view, which shows that the server does not answer
 * @param {(found: any) => HTMLElement} show makes the content of the answer
 * @returns {Part}
 */
export function lazyPart(title, address, again, show) {
  const body = el("div", {}, el("p", { class: "empty", text: "reading…" }));
  const node = closedPart(title, body);
  const load = eased(async () => {
    try {
      body.replaceChildren(show(await get(address)));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      body.replaceChildren(problem(error));
    }
  }, () => performance.now());
  node.addEventListener("toggle", () => { if (node.open) load(AT_ONCE).catch(again); });
  return { node, load: async (mark) => { if (node.open) await load(mark); } };
}
