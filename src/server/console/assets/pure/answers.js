// Owns how an answer of the server is judged: data, a refusal with its reason, or no answer at all.

/** @import { Place, Reason } from "./wire.js" */

/** No answer: the server cannot be reached, or something else answered in its place. */
export class Gone extends Error {
  constructor() {
    super("the server does not answer");
  }
}

/** An answer that refuses the request. */
export class Refused extends Error {
  /**
   * @param {number} status of HTTP
   * @param {Reason} reason
   */
  constructor(status, { message, help, from, to }) {
    super(message);
    this.status = status;
    /** @type {string | null} */
    this.help = help ?? null;
    /** @type {Place | null} */
    this.from = from ?? null;
    /** @type {Place | null} */
    this.to = to ?? null;
  }
}

/**
 * Gives the data of an answer.
 *
 * @param {number} status of HTTP
 * @param {any} body its JSON
 * @returns {any}
 * @throws {Refused} the server gave a reason
 * @throws {Gone} the answer is an error that is not the server's own
 */
export function dataOf(status, body) {
  if (status >= 200 && status < 300) return body;
  if (!body?.error) throw new Gone();
  throw new Refused(status, body.error);
}

/**
 * Whether a line of an answer is its last one.
 *
 * @param {any} line
 * @returns {boolean}
 * @throws {Refused} it is an error
 */
export function isLast(line) {
  // The status of the answer was sent before its first line.
  if (line.error) throw new Refused(200, line.error);
  return line.is_complete === true;
}
