import { concat, keyFromBase64url, toBase64url, uint16, utf8, type Bytes } from "./bytes.js";
import { NocturneError } from "./errors.js";
import { generateEphemeral, seal, type Ephemeral } from "./hpke.js";

/** The answer of the gateway's `GET /_nocturne/v1/keys` (spec/opaque-push.md §7). */
export interface GatewayKeys {
  /** Newest first. */
  keys: {
    /** The first byte of SHA-256 of the key. */
    id: number;
    alg: string;
    /** base64url */
    key: string;
    /** Seconds since 1970. */
    not_after: number | null;
  }[];
}

/**
 * Seals a device token to the gateway: the pushkey to register, so that the homeserver never holds the token.
 *
 * `token` is what the pushkey would be otherwise, `appId` the pusher's `app_id`. Every call gives another pushkey:
 * keep the one that was registered, and seal again only when the token or the gateway's keys have changed.
 */
export async function sealPushkey(
  token: string,
  appId: string,
  gatewayKeys: GatewayKeys,
): Promise<string> {
  const key = await usableKey(gatewayKeys, Date.now() / 1000);
  return sealPushkeyWith(await generateEphemeral(), token, appId, key);
}

/** As {@link sealPushkey}, with a given key pair; a key pair is for one message. Not part of the interface. */
export async function sealPushkeyWith(
  ephemeral: Ephemeral,
  token: string,
  appId: string,
  publicKey: Bytes,
): Promise<string> {
  const tokenBytes = utf8(token);
  if (2 + tokenBytes.length > PLAINTEXT) {
    throw new NocturneError("too_long", `the token has more than ${PLAINTEXT - 2} bytes`);
  }
  const plaintext = new Uint8Array(PLAINTEXT);
  plaintext.set(concat(uint16(tokenBytes.length), tokenBytes));
  const sealed = await seal(ephemeral, publicKey, INFO, utf8(appId), plaintext);
  const id = await keyId(publicKey);
  return PREFIX + toBase64url(concat(Uint8Array.of(id), sealed.enc, sealed.ciphertext));
}

const PREFIX = "nk1.";
const INFO = utf8("nocturne pushkey v1");
/** What every token is padded to, its length included. */
const PLAINTEXT = 256;

/** The newest key of an algorithm that this code knows. */
async function usableKey(answer: GatewayKeys, now: number): Promise<Bytes> {
  const keys = Array.isArray(answer?.keys) ? answer.keys : [];
  const newest = keys.find(
    (key) => key?.alg === "x25519" && (key.not_after === null || key.not_after > now),
  );
  if (newest === undefined) {
    throw new NocturneError("keys", "the gateway has no key to seal to");
  }
  const key = keyFromBase64url(newest.key, 32, "the gateway's key");
  if ((await keyId(key)) !== newest.id) {
    throw new NocturneError("keys", "the gateway's key has another ID than it says");
  }
  return key;
}

async function keyId(publicKey: Bytes): Promise<number> {
  const digest = await crypto.subtle.digest("SHA-256", publicKey);
  return new DataView(digest).getUint8(0);
}
