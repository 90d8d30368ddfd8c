import { concat, fromBase64url, keyFromBase64url, utf8, type Bytes } from "./bytes.js";
import { NocturneError } from "./errors.js";
import { point, privateKey, type BlobKeys, type DeviceKeys } from "./keys.js";

/** What is in a sealed blob (spec/opaque-push.md §5). What the homeserver did not say is absent. */
export interface SealedNotification {
  v: 1;
  event_id?: string;
  room_id?: string;
  /** How many rooms have something unread. */
  unread?: number;
  missed_calls?: number;
  prio: "high" | "low";
  /** When the gateway sealed it: seconds since 1970. */
  ts: number;
  /** The pusher's `default_payload`. */
  data?: Record<string, unknown>;
  // with `sealed_content`, and if there was room for them
  type?: string;
  sender?: string;
  sender_display_name?: string;
  room_name?: string;
  room_alias?: string;
  content?: Record<string, unknown>;
}

/** Opens the blob `p` of a push. */
export async function openBlob(p: string, keys: DeviceKeys): Promise<SealedNotification> {
  const json = await openMessage(fromBase64url(p, "the blob", "form"), keys);
  return expectNotification(json);
}

/**
 * Opens a whole Web Push message, as a UnifiedPush distributor hands it to its app: the JSON object in it. A
 * browser opens the messages to its own subscriptions by itself.
 */
export async function openMessage(
  message: Uint8Array,
  keys: DeviceKeys,
): Promise<Record<string, unknown>> {
  if (keys.blob === undefined) {
    throw new NocturneError("keys", "the device has no keys for blobs");
  }
  const plaintext = withoutPadding(await decrypt(message, keys.blob));
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(plaintext));
  } catch {
    throw new NocturneError("content", "what was sealed is not JSON");
  }
  if (!isObject(json)) {
    throw new NocturneError("content", "what was sealed is not an object");
  }
  return json;
}

/** Checks that an object is of the version that this code knows. */
export function expectNotification(json: Record<string, unknown>): SealedNotification {
  if (json["v"] !== 1) {
    throw new NocturneError("version", "what was sealed is of another version");
  }
  return json as unknown as SealedNotification;
}

/** Whether a value is a JSON object. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** RFC 8188 §2.1: salt, record size, length of the key ID; the key ID is the sender's point (RFC 8291 §4). */
const SALT = 16;
const POINT = 65;
const HEADER = SALT + 4 + 1 + POINT;
const TAG = 16;

/** RFC 8291 with its one record; the padding is still in what it gives. */
async function decrypt(message: Uint8Array, keys: BlobKeys): Promise<Bytes> {
  if (message.length <= HEADER + TAG || message[SALT + 4] !== POINT) {
    throw new NocturneError("form", "this is not a Web Push message");
  }
  const bytes = concat(message);
  const salt = bytes.subarray(0, SALT);
  const recordSize = new DataView(bytes.buffer).getUint32(SALT);
  const sender = bytes.subarray(HEADER - POINT, HEADER);
  const ciphertext = bytes.subarray(HEADER);
  if (recordSize < ciphertext.length) {
    throw new NocturneError("form", "the message has more than one record");
  }

  const own = await privateKey(keys);
  const auth = keyFromBase64url(keys.auth, 16, "auth");
  const info = concat(utf8("WebPush: info\0"), point(keys), sender);
  try {
    const ecdh = { name: "ECDH", namedCurve: "P-256" };
    const theirs = await crypto.subtle.importKey("raw", sender, ecdh, false, []);
    const shared = await crypto.subtle.deriveBits({ name: "ECDH", public: theirs }, own, 256);
    const input = await hkdf(new Uint8Array(shared), auth, info, 32);
    const key = await hkdf(input, salt, utf8("Content-Encoding: aes128gcm\0"), 16);
    const iv = await hkdf(input, salt, utf8("Content-Encoding: nonce\0"), 12);
    const aes = await crypto.subtle.importKey("raw", key, "AES-GCM", false, ["decrypt"]);
    return new Uint8Array(await crypto.subtle.decrypt({ name: "AES-GCM", iv }, aes, ciphertext));
  } catch {
    throw new NocturneError("sealed", "sealed to other keys, or changed on the way");
  }
}

async function hkdf(secret: Bytes, salt: Bytes, info: Bytes, length: number): Promise<Bytes> {
  const key = await crypto.subtle.importKey("raw", secret, "HKDF", false, ["deriveBits"]);
  const algorithm = { name: "HKDF", hash: "SHA-256", salt, info };
  return new Uint8Array(await crypto.subtle.deriveBits(algorithm, key, 8 * length));
}

/** RFC 8188 §2: the last record ends in 0x02 and any number of zeros. */
function withoutPadding(record: Bytes): Bytes {
  let end = record.length - 1;
  while (end > 0 && record[end] === 0) {
    end -= 1;
  }
  if (record[end] !== 2) {
    throw new NocturneError("content", "the padding does not end");
  }
  return record.subarray(0, end);
}
