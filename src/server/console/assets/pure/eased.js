// Owns how often something costly is read: when there is something new, and only for a small part of the time.

/** What is read is read again after so many times what it took. */
const EASE = 10;

/** The mark of a reading that is wanted at once. */
export const AT_ONCE = "at once";

/**
 * A function that calls `read` if the mark it is given is another than at the last time, and long enough has passed.
 *
 * @param {() => Promise<void>} read
 * @param {() => number} now milliseconds of a clock
 * @returns {(mark: string) => Promise<void>}
 */
export function eased(read, now) {
  /** @type {string | null} */
  let seen = null;
  let next = 0;
  return async (mark) => {
    const began = now();
    if (mark === seen || (mark !== AT_ONCE && began < next)) return;
    await read();
    if (mark !== AT_ONCE) seen = mark;
    next = began + (now() - began) * EASE;
  };
}
