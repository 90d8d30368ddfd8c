import { concat, fromBase64url, keyFromBase64url, toBase64url, utf8 } from "./bytes.js";
import { NocturneError } from "./errors.js";

/** The tag `r` of a room in the push called `n` (spec/opaque-push.md §4). */
export async function roomTag(n: string, secret: string, roomId: string): Promise<string> {
  return (await tagger(ROOM, n, secret))(roomId);
}

/** The tag `e` of an event in the push called `n`. */
export async function eventTag(n: string, secret: string, eventId: string): Promise<string> {
  return (await tagger(EVENT, n, secret))(eventId);
}

/** The room that `r` stands for; `undefined` when it is none of these. */
export async function matchRoom(
  n: string,
  r: string,
  secret: string,
  roomIds: Iterable<string>,
): Promise<string | undefined> {
  return match(await tagger(ROOM, n, secret), r, roomIds);
}

/** The event that `e` stands for; `undefined` when it is none of these. */
export async function matchEvent(
  n: string,
  e: string,
  secret: string,
  eventIds: Iterable<string>,
): Promise<string | undefined> {
  return match(await tagger(EVENT, n, secret), e, eventIds);
}

const ROOM = "nocturne room\0";
const EVENT = "nocturne event\0";

/** Makes the tags of one push. */
async function tagger(
  label: string,
  n: string,
  secret: string,
): Promise<(id: string) => Promise<string>> {
  const hmac = { name: "HMAC", hash: "SHA-256" };
  const raw = keyFromBase64url(secret, 32, "secret");
  const key = await crypto.subtle.importKey("raw", raw, hmac, false, ["sign"]);
  const identifier = fromBase64url(n, "n", "form");
  if (identifier.length !== 16) {
    throw new NocturneError("form", "n does not have 16 bytes");
  }
  const prefix = concat(utf8(label), identifier);
  return async (id) => {
    const tag = await crypto.subtle.sign("HMAC", key, concat(prefix, utf8(id)));
    return toBase64url(new Uint8Array(tag, 0, 16));
  };
}

async function match(
  tagOf: (id: string) => Promise<string>,
  tag: string,
  ids: Iterable<string>,
): Promise<string | undefined> {
  const wanted = toBase64url(fromBase64url(tag, "the tag", "form"));
  for (const id of ids) {
    if ((await tagOf(id)) === wanted) {
      return id;
    }
  }
  return undefined;
}
