/**
 * What went wrong:
 *
 * - `form`: what was received is not what it should be: not base64url, too short, no header;
 * - `sealed`: it was sealed to other keys, or changed on the way;
 * - `content`: it opened, and what is in it is not what the specification says;
 * - `version`: it is of a version that this code does not know;
 * - `keys`: keys are missing, malformed or expired;
 * - `too_long`: the token is longer than a sealed pushkey can hold;
 * - `unsupported`: this WebCrypto lacks an algorithm.
 */
export type Problem =
  | "form"
  | "sealed"
  | "content"
  | "version"
  | "keys"
  | "too_long"
  | "unsupported";

/** The one type of error that this module throws. Its message names no identifier, key or content. */
export class NocturneError extends Error {
  override readonly name = "NocturneError";

  constructor(
    readonly problem: Problem,
    message: string,
  ) {
    super(message);
  }
}
