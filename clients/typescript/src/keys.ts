import { keyFromBase64url, toBase64url } from "./bytes.js";
import { NocturneError } from "./errors.js";

/**
 * What a device keeps to understand its pushes. Plain strings, so that it can be stored as JSON; it belongs
 * where the access token is.
 */
export interface DeviceKeys {
  /** For tags: 32 bytes. */
  secret?: string;
  /** For sealed blobs. */
  blob?: BlobKeys;
}

/** A receiver's keys as in Web Push (RFC 8291 §3.1); strings are base64url. */
export interface BlobKeys {
  /**
   * The P-256 private key: its 32 bytes, or a `CryptoKey` for `ECDH` with the usage `deriveBits`. The latter
   * need not be extractable, and can be kept in IndexedDB.
   */
  privateKey: string | CryptoKey;
  /** Its public key, an uncompressed point: 65 bytes. */
  p256dh: string;
  /** The authentication secret: 16 bytes. */
  auth: string;
}

/** What goes into a pusher's `data` under the name `nocturne` (spec/opaque-push.md §2). */
export interface NocturneObject {
  v: 1;
  secret?: string;
  p256dh?: string;
  auth?: string;
}

/**
 * Makes new keys: for sealed blobs unless told otherwise.
 *
 * A device with keys for blobs gets no tags; a `secret` is for those that only want tags.
 */
export async function generateKeys(
  wanted: { blob?: boolean; secret?: boolean } = { blob: true },
): Promise<DeviceKeys> {
  const keys: DeviceKeys = {};
  if (wanted.secret) {
    keys.secret = toBase64url(crypto.getRandomValues(new Uint8Array(32)));
  }
  if (wanted.blob) {
    const pair = await crypto.subtle.generateKey({ name: "ECDH", namedCurve: "P-256" }, true, [
      "deriveBits",
    ]);
    const { d } = await crypto.subtle.exportKey("jwk", pair.privateKey);
    const point = await crypto.subtle.exportKey("raw", pair.publicKey);
    keys.blob = {
      privateKey: d as string,
      p256dh: toBase64url(new Uint8Array(point)),
      auth: toBase64url(crypto.getRandomValues(new Uint8Array(16))),
    };
  }
  return keys;
}

/**
 * The object for `data.nocturne` of the pusher, or for `data.default_payload.nocturne` where a client can set
 * nothing else. The private key is not in it.
 */
export function pusherData(keys: DeviceKeys): NocturneObject {
  const data: NocturneObject = { v: 1 };
  if (keys.secret !== undefined) {
    data.secret = toBase64url(keyFromBase64url(keys.secret, 32, "secret"));
  }
  if (keys.blob !== undefined) {
    data.p256dh = toBase64url(point(keys.blob));
    data.auth = toBase64url(keyFromBase64url(keys.blob.auth, 16, "auth"));
  }
  return data;
}

/** The public key's bytes. */
export function point(keys: BlobKeys): Uint8Array<ArrayBuffer> {
  const point = keyFromBase64url(keys.p256dh, 65, "p256dh");
  if (point[0] !== 4) {
    throw new NocturneError("keys", "p256dh is not an uncompressed point");
  }
  return point;
}

/** The private key, for WebCrypto. */
export async function privateKey(keys: BlobKeys): Promise<CryptoKey> {
  if (typeof keys.privateKey !== "string") {
    return keys.privateKey;
  }
  const publicKey = point(keys);
  const jwk = {
    kty: "EC",
    crv: "P-256",
    d: toBase64url(keyFromBase64url(keys.privateKey, 32, "the private key")),
    x: toBase64url(publicKey.subarray(1, 33)),
    y: toBase64url(publicKey.subarray(33)),
  };
  try {
    const algorithm = { name: "ECDH", namedCurve: "P-256" };
    return await crypto.subtle.importKey("jwk", jwk, algorithm, false, ["deriveBits"]);
  } catch {
    throw new NocturneError("keys", "the private key and p256dh are not a P-256 key pair");
  }
}
