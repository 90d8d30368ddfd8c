import { readFileSync } from "node:fs";

export { deviceKeys, inWords } from "./keys.js";

/** The vectors that the gateway's own code wrote: clients/test-vectors.json. */
export const vectors = JSON.parse(
  readFileSync(new URL("../../test-vectors.json", import.meta.url), "utf8"),
);

/** For `assert.rejects`: this package's error, of this kind. */
export function problem(problem) {
  return (error) => error.name === "NocturneError" && error.problem === problem;
}
