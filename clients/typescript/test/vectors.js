import { readFileSync } from "node:fs";

/** The vectors that the gateway's own code wrote: clients/test-vectors.json. */
export const vectors = JSON.parse(
  readFileSync(new URL("../../test-vectors.json", import.meta.url), "utf8"),
);

/** A device's keys as the vectors have them, as this package takes them. */
export function deviceKeys({ secret, private_key: privateKey, p256dh, auth }) {
  return {
    ...(secret === undefined ? {} : { secret }),
    ...(p256dh === undefined ? {} : { blob: { privateKey, p256dh, auth } }),
  };
}

/** What `understand` gives, in the vectors' words. */
export function inWords({ roomId, eventId, ...about }) {
  const withNull = about.kind === "tags";
  return {
    ...about,
    ...(roomId !== undefined || withNull ? { room_id: roomId ?? null } : {}),
    ...(eventId !== undefined || withNull ? { event_id: eventId ?? null } : {}),
  };
}

/** For `assert.rejects`: this package's error, of this kind. */
export function problem(problem) {
  return (error) => error.name === "NocturneError" && error.problem === problem;
}
