// Owns lines of JSON that come in pieces.

/** Puts pieces of a text together to lines. */
export class Lines {
  #rest = "";

  /**
   * Takes a piece; gives the values of the lines that it ends. Empty lines have none.
   *
   * @param {string} piece
   * @returns {any[]}
   */
  take(piece) {
    const parts = (this.#rest + piece).split("\n");
    this.#rest = parts.pop() ?? "";
    return parts.filter((line) => line.trim() !== "").map((line) => JSON.parse(line));
  }
}
