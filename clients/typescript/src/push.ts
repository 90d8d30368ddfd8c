import { expectNotification, isObject, openBlob, type SealedNotification } from "./blob.js";
import { NocturneError } from "./errors.js";
import type { DeviceKeys } from "./keys.js";
import { matchEvent, matchRoom } from "./tags.js";

/** What a push is about. `n` names the push, where it has a name: a second one with the same is a duplicate. */
export type About =
  /** There is something new somewhere: sync. */
  | { kind: "wake"; n?: string }
  /**
   * There is something new in this room: sync it. `undefined` where the tag stands for none of the IDs that were
   * given: a room that the device has not heard of yet, an event that it does not have yet (as most new ones).
   */
  | { kind: "tags"; n: string; roomId: string | undefined; eventId: string | undefined }
  /** What the gateway sealed for this device alone. */
  | { kind: "sealed"; n?: string; notification: SealedNotification }
  /**
   * IDs in clear: the client's own push test (`$THIS_IS_A_FAKE_EVENT_ID`), or an app whose gateway runs in mode
   * `sygnal`. The provider reads them, and can make them up.
   */
  | { kind: "clear"; eventId?: string; roomId?: string };

/**
 * What a push from Apple or Google is about. `payload` is what the app gets: the `userInfo` of an APNs
 * notification, the `data` of an FCM message.
 *
 * Whatever it throws, the push still says that there is something new: sync.
 */
export async function understand(
  payload: Record<string, unknown>,
  keys: DeviceKeys,
  roomIds: Iterable<string>,
  eventIds: Iterable<string> = [],
): Promise<About> {
  const n = text(payload, "n");
  const named = n === undefined ? {} : { n };
  const p = text(payload, "p");
  if (p !== undefined) {
    return { kind: "sealed", ...named, notification: await openBlob(p, keys) };
  }
  const [r, e] = [text(payload, "r"), text(payload, "e")];
  if (n !== undefined && (r !== undefined || e !== undefined)) {
    const { secret } = keys;
    if (secret === undefined) {
      throw new NocturneError("keys", "the device has no secret for tags");
    }
    return {
      kind: "tags",
      n,
      roomId: r === undefined ? undefined : await matchRoom(n, r, secret, roomIds),
      eventId: e === undefined ? undefined : await matchEvent(n, e, secret, eventIds),
    };
  }
  return clear(payload) ?? { kind: "wake", ...named };
}

/**
 * What the plaintext of a Web Push message is about: `event.data.json()` in a service worker, or what
 * {@link openMessage} gave for UnifiedPush. Not for payloads of Apple and Google, who could say anything in it.
 */
export function understandMessage(message: Record<string, unknown>): About {
  if (!("v" in message)) {
    return clear(message) ?? { kind: "wake" };
  }
  const notification = expectNotification(message);
  return Object.keys(message).length === 1 ? { kind: "wake" } : { kind: "sealed", notification };
}

/** The IDs that a payload as of Sygnal has, or the homeserver's notification, as push servers pass it on. */
function clear(payload: Record<string, unknown>): About | undefined {
  const members = isObject(payload["notification"]) ? payload["notification"] : payload;
  const [eventId, roomId] = [text(members, "event_id"), text(members, "room_id")];
  if (eventId === undefined && roomId === undefined) {
    return undefined;
  }
  return {
    kind: "clear",
    ...(eventId === undefined ? {} : { eventId }),
    ...(roomId === undefined ? {} : { roomId }),
  };
}

function text(payload: Record<string, unknown>, name: string): string | undefined {
  const value = payload[name];
  return typeof value === "string" ? value : undefined;
}
