// Owns the top of the page: whether the server answers, its version, and which user is logged in.

import { Gone } from "../pure/answers.js";
import { get, post } from "../server/api.js";
import { byId, el, setAttribute, setText } from "./dom.js";
import { announce, problem } from "./notices.js";

/** The connection to the server, as the top of the page shows it. */
export class Connection {
  #banner = byId("banner", HTMLElement);
  #state = byId("connection", HTMLElement);
  #user = byId("user", HTMLElement);
  #logout = byId("logout", HTMLButtonElement);
  /** @type {Date | null} */
  #lastAnswer = null;

  /** Whether the server did not answer the last time. */
  isGone = false;

  constructor() {
    this.#logout.addEventListener("click", async () => {
      await post("/logout", {});
      location.reload();
    });
  }

  /**
   * The view was refreshed.
   *
   * @returns {void}
   */
  succeeded() {
    this.#lastAnswer = new Date();
    this.#banner.hidden = true;
    this.#show("live", "live");
    if (!this.isGone) return;
    this.isGone = false;
    announce("the server answers again");
    this.showUser().catch(() => {});
  }

  /**
   * The view could not be refreshed.
   *
   * @param {unknown} error
   * @returns {void}
   */
  failed(error) {
    if (error instanceof Gone) {
      const since = this.#lastAnswer ? ` since ${this.#lastAnswer.toLocaleTimeString()}` : "";
      this.#say(`The server has not answered${since}. The page shows the state of that time, and retries.`);
      this.#show("gone", "no answer");
      this.isGone = true;
      return;
    }
    this.#show("live", "live");
    this.#banner.replaceChildren(problem(error));
    this.#banner.hidden = false;
  }

  /**
   * Shows the user who is logged in, and the version of the server.
   *
   * @returns {Promise<void>}
   */
  async showUser() {
    /** @type {{ user: string | null, version: string }} */
    const { user, version } = await get("/about");
    setText(this.#user, user ?? "");
    setAttribute(this.#state, "title", `anabranch ${version}`);
    this.#logout.hidden = user === null;
  }

  /**
   * Shows a text in the banner, which a screen reader reads only when it changes.
   *
   * @param {string} text
   * @returns {void}
   */
  #say(text) {
    const isShown = !this.#banner.hidden && this.#banner.textContent === text;
    if (!isShown) this.#banner.replaceChildren(el("p", { text }));
    this.#banner.hidden = false;
  }

  /**
   * @param {"live" | "gone"} state
   * @param {string} text
   * @returns {void}
   */
  #show(state, text) {
    setText(this.#state, text);
    setAttribute(this.#state, "data-state", state);
  }
}
